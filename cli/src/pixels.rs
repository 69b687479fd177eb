//! Images in memory, from JPEG and PNG files and to PNG.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use rgb::FromSlice;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Images with a longer side than this are refused.
pub(crate) const LONGEST_SIDE: u32 = 1 << 14;
/// How many bytes an image may be in memory: so many, and so many times its file. Photographs are 10 to 40 times
/// theirs.
const UNPACKED_BYTES: u64 = 16 << 20;
const UNPACKED_FACTOR: u64 = 64;

/// Colours `[height][width][3]`.
#[derive(Clone)]
pub struct Pixels {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

impl Pixels {
    /// A JPEG or PNG file. Grey becomes three equal colours, samples of 16 bits keep the upper 8, and transparency is left
    /// out.
    ///
    /// # Errors
    ///
    /// A line that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |what: String| format!("{}: {what}; expected a JPEG or PNG file", path.display());
        let unreadable = |e: io::Error| wrong(format!("cannot be read: {e}"));
        let file = File::open(path).map_err(unreadable)?;
        let most = file.metadata().map_err(unreadable)?.len().saturating_mul(UNPACKED_FACTOR);
        let most = usize::try_from(most.saturating_add(UNPACKED_BYTES)).unwrap_or(usize::MAX);
        let mut file = BufReader::new(file);
        file.fill_buf().map_err(unreadable)?;
        decode(file, most).map_err(|e| wrong(format!("cannot be decoded: {}", e.to_string().trim_end())))
    }

    /// The bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(bytes)
    }

    /// The colour of each pixel by its column and row.
    pub fn from_fn(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Self {
        let rgb = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| colour(x, y)).collect();
        Pixels { width, height, rgb }
    }

    pub fn size(&self) -> [u32; 2] {
        [self.width, self.height]
    }

    /// The part around the centre of at most this size.
    pub fn centre(self, width: u32, height: u32) -> Self {
        let (width, height) = (width.min(self.width), height.min(self.height));
        if [width, height] == self.size() {
            return self;
        }
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let rows = self.rgb.chunks_exact(3 * self.width as usize).skip(top as usize).take(height as usize);
        let rgb = rows.flat_map(|row| &row[3 * left as usize..][..3 * width as usize]).copied().collect();
        Pixels { width, height, rgb }
    }

    /// Resized by linear interpolation, over more pixels where it becomes smaller.
    ///
    /// # Errors
    ///
    /// A side of 0, or too little memory.
    pub fn resized(&self, width: u32, height: u32) -> Result<Self, resize::Error> {
        let [from_width, from_height, to_width, to_height] =
            [self.width, self.height, width, height].map(|length| length as usize);
        let mut rgb = vec![0; 3 * to_width * to_height];
        resize::new(from_width, from_height, to_width, to_height, resize::Pixel::RGB8, resize::Type::Triangle)
            .and_then(|mut resizer| resizer.resize(self.rgb.as_rgb(), rgb.as_rgb_mut()))?;
        Ok(Pixels { width, height, rgb })
    }
}

/// `most`: how many bytes it may take in memory.
fn decode(mut file: BufReader<File>, most: usize) -> Result<Pixels, Box<dyn Error>> {
    let start = file.fill_buf()?;
    let (size, samples) = if start.starts_with(b"\x89PNG") {
        png(file, most)?
    } else if start.starts_with(&[0xff, 0xd8]) {
        jpeg(file, most)?
    } else {
        return Err("it begins like neither kind".into());
    };
    let [width, height] = size;
    let samples_per_pixel = samples.len() / (width as usize * height as usize);
    let rgb = samples.chunks_exact(samples_per_pixel).flat_map(|pixel| match *pixel {
        [red, green, blue, ..] => [red, green, blue],
        [grey, ..] => [grey; 3],
        [] => unreachable!("chunks have a sample"),
    });
    Ok(Pixels { width, height, rgb: rgb.collect() })
}

/// Width and height, and samples of a byte: grey or colours, perhaps with transparency.
type Decoded = ([u32; 2], Vec<u8>);

fn png(file: BufReader<File>, most: usize) -> Result<Decoded, Box<dyn Error>> {
    let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: most });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let size = <[u32; 2]>::from(reader.info().size());
    let mut samples = vec![0; bounded(size, reader.output_buffer_size(), most)?];
    reader.next_frame(&mut samples)?;
    Ok((size, samples))
}

fn jpeg(file: BufReader<File>, most: usize) -> Result<Decoded, Box<dyn Error>> {
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(file, options);
    decoder.decode_headers()?;
    let info = decoder.info().expect("headers were decoded");
    let size = [info.width, info.height].map(u32::from);
    let mut samples = vec![0; bounded(size, decoder.output_buffer_size(), most)?];
    decoder.decode_into(&mut samples)?;
    Ok((size, samples))
}

/// `bytes`, if the image is not larger than it may be.
fn bounded([width, height]: [u32; 2], bytes: Option<usize>, most: usize) -> Result<usize, String> {
    match bytes {
        Some(bytes) if bytes <= most && width.max(height) <= LONGEST_SIDE => Ok(bytes),
        _ => Err(format!(
            "it has {width} x {height} pixels; the limits are {LONGEST_SIDE} a side and, for a file of its size, {most} bytes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    #[test]
    fn what_is_no_image_is_refused_in_a_line() {
        let (_directory, path) = written("text.jpg", b"no image");
        let Err(message) = Pixels::read(&path) else { panic!("it was read") };
        assert!(message.contains("text.jpg") && message.contains("JPEG or PNG"), "{message}");
    }

    #[test]
    fn an_image_far_larger_than_its_file_is_refused() {
        let black = Pixels::from_fn(8192, 8192, |_, _| [0; 3]);
        let (_directory, path) = written("bomb.png", &black.png().unwrap());
        let Err(message) = Pixels::read(&path) else { panic!("it was read") };
        assert!(message.contains("bomb.png") && message.contains("limit"), "{message}");
    }

    /// Images of every kind, and what was found by fuzzing.
    #[test]
    fn every_case_is_read_or_refused() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/cases/image");
        let mut read = 0;
        for entry in std::fs::read_dir(cases).unwrap() {
            let path = entry.unwrap().path();
            match Pixels::read(&path) {
                Ok(pixels) => {
                    assert_eq!(pixels.rgb.len(), 3 * (pixels.width * pixels.height) as usize, "{}", path.display());
                    read += 1;
                }
                Err(message) => assert!(message.contains("expected a JPEG or PNG"), "{message}"),
            }
        }
        assert!(read >= 11, "{read} images were read");
    }
}
