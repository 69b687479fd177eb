//! The sizes of results against PyTorch's formulas.

use predictive_coding::{AvgPool2d, Conv2d, MaxPool2d, Op, Padding};
use predictive_coding_reference::operation::window_count;

#[test]
fn windows_are_as_many_as_in_pytorch() {
    let mut tried = 0;
    for i in 0..12 * 5 * 5 * 3 * 2 * 2 {
        let (size, kernel, stride) = (i % 12 + 1, i / 12 % 5 + 1, i / 60 % 5 + 1);
        let (padding, dilation, ceil_mode) = (i / 300 % 3, i / 900 % 2 + 1, i / 1800 == 1);
        let extent = dilation * (kernel - 1) + 1;
        let whole = (size + 2 * padding + if ceil_mode { stride - 1 } else { 0 }) >= extent;
        if padding > extent / 2 {
            continue;
        }
        let max = MaxPool2d::new([kernel, 1]).with_stride([stride, 1]).with_padding([padding, 0]);
        let max = Op::MaxPool2d(max.with_dilation([dilation, 1]).with_ceil_mode(ceil_mode)).output_shape(&[3, size, 4]);
        let avg = AvgPool2d::new([1, kernel]).with_stride([1, stride]).with_padding([0, padding]);
        let avg = Op::AvgPool2d(avg.with_ceil_mode(ceil_mode)).output_shape(&[3, 4, size]);
        if !whole {
            assert!(max.is_err() && (dilation > 1 || avg.is_err()), "{size} {kernel} {stride} {padding} {dilation}");
            continue;
        }
        let expected = window_count(size, [kernel, stride, padding, dilation], ceil_mode);
        // A dilated window may lie on padding altogether.
        assert!(max.is_ok() || dilation > 1, "{max:?}");
        if let Ok(max) = max {
            assert_eq!(max, [3, expected, 4], "{size} {kernel} {stride} {padding} {dilation} {ceil_mode}");
            tried += 1;
        }
        if dilation == 1 {
            assert_eq!(avg.unwrap(), [3, 4, expected], "{size} {kernel} {stride} {padding} {ceil_mode}");
        }
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn same_padding_keeps_the_size() {
    for (kernel, dilation) in (1..6).flat_map(|kernel| (1..4).map(move |dilation| (kernel, dilation))) {
        let conv = Conv2d::new(2, [kernel, 1]).with_dilation([dilation, 1]).with_padding(Padding::Same);
        assert_eq!(Op::Conv2d(conv).output_shape(&[1, 3, 5]).unwrap(), [2, 3, 5]);
    }
}

#[test]
fn an_adaptive_pooling_keeps_an_axis() {
    let pool = |output_size| Op::AdaptiveAvgPool2d { output_size }.output_shape(&[2, 5, 6]).unwrap();
    assert_eq!([pool([0, 3]), pool([1, 0]), pool([0, 0])], [[2, 5, 3], [2, 1, 6], [2, 5, 6]]);
}
