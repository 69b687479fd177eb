//! A network as a graph: a box for each layer, and an arrow for each belief that it reads.

use super::colour::{BLACK, GREY, WHITE, of, pale};
use super::scene::{Anchor, Pen, Scene};
use super::text;

/// A box of a graph. `reads` are indices of boxes above, each with what is told of the way from there.
pub struct Node {
    pub title: String,
    pub reads: Vec<(usize, String)>,
    /// What is done with the sum of what it reads.
    pub then: String,
}

pub struct Graph {
    pub title: String,
    pub nodes: Vec<Node>,
}

const MARGIN: f32 = 16.0;
const GAP: f32 = 26.0;
const LINE: f32 = 16.0;
const SIZE: f32 = 12.0;
/// Between the arrows that go past boxes.
const TRACK: f32 = 12.0;
const HEAD: f32 = 4.0;

impl Node {
    fn lines(&self) -> impl Iterator<Item = &String> {
        let labels = self.reads.iter().map(|(_, label)| label);
        labels.chain([&self.then]).filter(|line| !line.is_empty())
    }
}

impl Graph {
    pub fn scene(&self) -> Scene {
        let lines: Vec<Vec<&String>> = self.nodes.iter().map(|node| node.lines().collect()).collect();
        let texts = self.nodes.iter().map(|node| &node.title).chain(lines.iter().flatten().copied());
        let width = texts.map(|line| text::width(line, SIZE)).fold(120.0, f32::max) + 2.0 * MARGIN;
        // Those that do not read the box above go past the boxes between, each on a track of its own.
        let past: Vec<(usize, usize)> = (0..self.nodes.len())
            .flat_map(|to| self.nodes[to].reads.iter().map(move |&(from, _)| (from, to)))
            .filter(|(from, to)| from + 1 < *to)
            .collect();
        let left = MARGIN + TRACK * (past.len() as f32 + 1.0);
        let title = text::width(&self.title, SIZE + 2.0) + MARGIN;
        let all = MARGIN + title.max(left + width);
        let mut scene = Scene { title: self.title.clone(), width: all, ..Scene::default() };
        let mut tops = Vec::with_capacity(self.nodes.len());
        let mut y = MARGIN + 2.0 * LINE;
        for lines in &lines {
            let height = LINE * (lines.len() as f32 + 1.5);
            tops.push((y, height));
            y += height + GAP;
        }
        scene.height = y - GAP + MARGIN;
        scene.rectangle((0.0, 0.0), (scene.width, scene.height), WHITE);
        scene.text(&self.title, SIZE + 2.0, Anchor::Start, (MARGIN, MARGIN + LINE), BLACK);
        for (index, (node, lines)) in self.nodes.iter().zip(&lines).enumerate() {
            let (top, height) = tops[index];
            scene.rectangle((left, top), (width, height), pale(of(if index == 0 { 2 } else { 0 }, 6)));
            let place = |line: usize| (left + width / 2.0, top + LINE * (line as f32 + 1.1));
            scene.text(&node.title, SIZE, Anchor::Middle, place(0), BLACK);
            for (line, text) in lines.iter().enumerate() {
                scene.text(text, SIZE, Anchor::Middle, place(line + 1), GREY);
            }
            if node.reads.iter().any(|(from, _)| from + 1 == index) {
                let x = left + width / 2.0;
                arrow(&mut scene, &[(x, top - GAP), (x, top)]);
            }
        }
        for (track, &(from, to)) in past.iter().enumerate() {
            let x = left - TRACK * (track as f32 + 1.0);
            let side = |node: usize, share: f32| tops[node].0 + tops[node].1 * share;
            arrow(
                &mut scene,
                &[(left, side(from, 0.7)), (x, side(from, 0.7)), (x, side(to, 0.3)), (left, side(to, 0.3))],
            );
        }
        scene
    }
}

/// A line with a head at its end.
fn arrow(scene: &mut Scene, points: &[(f32, f32)]) {
    let pen = Pen::solid(GREY, 1.2);
    scene.line(points, pen);
    let [.., (x0, y0), (x, y)] = points else { return };
    let length = (x - x0).hypot(y - y0).max(1.0);
    let (dx, dy) = (HEAD * (x - x0) / length, HEAD * (y - y0) / length);
    scene.line(&[(x - 2.0 * dx - dy, y - 2.0 * dy + dx), (*x, *y), (x - 2.0 * dx + dy, y - 2.0 * dy - dx)], pen);
}
