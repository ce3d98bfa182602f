//! Garment-like silhouettes of the ten Fashion-MNIST classes, drawn from a seed, for machines without the data.
//!
//! They are never used silently in place of the real images. The classes differ as the real ones do (sleeves, length,
//! legs, soles, straps, handles), and size, cut, brightness, pattern and pose vary within a class, so that a decoder
//! can learn them and a t-SNE can separate them. Image i of a split has class i mod 10 and is a function of (seed,
//! split, i) alone: asking for more images does not change the first ones.

mod shapes;

use shapes::{Garment, Layer, Point, Pose, Shape, Texture};

use super::idx::PIXELS;
use crate::rng::{Stream, Streams};

/// Image `index` of a split. Its class is `index % 10`, numbered as [`super::fashion_mnist::CLASSES`].
pub fn image(streams: Streams, split: &str, index: usize) -> [u8; PIXELS] {
    let purpose = format!("synthetic {split}");
    draw((index % 10) as u8, &mut streams.stream(&purpose, 0, index as u64))
}

fn draw(class: u8, stream: &mut Stream) -> [u8; PIXELS] {
    let mut draw = Draw(stream);
    let tone = draw.between(0.45, 1.0);
    let (layers, mirrored, turn) = match class {
        0 => (t_shirt(&mut draw, tone), true, 0.05),
        1 => (trouser(&mut draw, tone), true, 0.03),
        2 => (pullover(&mut draw, tone), true, 0.04),
        3 => (dress(&mut draw, tone), true, 0.05),
        4 => (coat(&mut draw, tone), true, 0.03),
        5 => (sandal(&mut draw, tone), false, 0.06),
        6 => (shirt(&mut draw, tone), true, 0.04),
        7 => (sneaker(&mut draw, tone), false, 0.04),
        8 => (bag(&mut draw, tone), true, 0.04),
        _ => (boot(&mut draw, tone), false, 0.04),
    };
    let cloth = !matches!(class, 5 | 7 | 9);
    let waves = draw.between(1.5, 3.5);
    let texture = match draw.0.below(if cloth { 8 } else { 1 }) {
        5 => Texture::Across(waves),
        6 => Texture::Along(waves),
        7 => Texture::Check(waves),
        _ => Texture::Plain,
    };
    let garment = Garment {
        layers,
        mirrored,
        texture,
        depth: draw.between(0.15, 0.5),
        folds: [draw.phase(), draw.phase(), draw.phase()],
    };
    let pose = Pose {
        shift: [draw.between(-0.05, 0.05), draw.between(-0.04, 0.04)],
        scale: draw.between(0.9, 1.02),
        tilt: draw.between(-turn, turn),
    };
    let mut grain = [0.0; PIXELS];
    draw.0.normals(&mut grain);
    grain.iter_mut().for_each(|g| *g *= 4.0);
    garment.paint(&pose, &grain)
}

/// Draws measurements from a stream.
struct Draw<'a>(&'a mut Stream);

impl Draw<'_> {
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.uniform()
    }

    fn phase(&mut self) -> f32 {
        self.between(0.0, std::f32::consts::TAU)
    }

    fn chance(&mut self, of: f32) -> bool {
        self.0.uniform() <= of
    }
}

fn cloth(shape: Shape, tone: f32) -> Layer {
    Layer { shape, tone, textured: true }
}

fn plain(shape: Shape, tone: f32) -> Layer {
    Layer { shape, tone, textured: false }
}

fn hole(shape: Shape) -> Layer {
    plain(shape, 0.0)
}

fn polygon(corners: &[Point]) -> Shape {
    Shape::Polygon(corners.to_vec(), 0.02)
}

/// The measurements of an upper garment; the right half, x ≥ 0.
struct Top {
    neck: f32,
    shoulder: f32,
    chest: f32,
    hem: f32,
    top: f32,
    bottom: f32,
}

impl Top {
    fn torso(&self, tone: f32) -> Layer {
        let armpit = self.top + 0.45;
        let corners = [
            [-0.3, self.top],
            [self.neck, self.top],
            [self.shoulder, self.top + 0.12],
            [self.chest, armpit],
            [self.hem, self.bottom],
            [-0.3, self.bottom],
        ];
        cloth(polygon(&corners), tone)
    }

    /// A sleeve of this length that leaves the body by `slope` (sideways per unit downwards).
    fn sleeve(&self, length: f32, slope: f32, width: f32, tone: f32) -> Layer {
        let unit = 1.0 / (1.0 + slope * slope).sqrt();
        let (down, side) = (length * unit, length * slope * unit);
        let (start, armpit) = ([self.shoulder, self.top + 0.1], [self.chest - 0.04, self.top + 0.5]);
        let end = [start[0] + side, start[1] + down];
        let cuff = [end[0] - width * unit, end[1] + width * slope * unit];
        cloth(polygon(&[start, end, cuff, armpit, [0.2, self.top + 0.2]]), tone)
    }

    fn neckline(&self, depth: f32) -> Layer {
        hole(Shape::Ellipse([0.0, self.top - 0.03], [self.neck, depth]))
    }
}

fn t_shirt(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let chest = draw.between(0.42, 0.54);
    let top = Top {
        neck: draw.between(0.18, 0.26),
        shoulder: chest + draw.between(0.0, 0.06),
        chest,
        hem: chest + draw.between(-0.04, 0.06),
        top: -0.88,
        bottom: draw.between(0.75, 0.92),
    };
    let (length, slope, width) = (draw.between(0.38, 0.55), draw.between(0.8, 1.4), draw.between(0.24, 0.3));
    let mut layers =
        vec![top.sleeve(length, slope, width, tone * 0.93), top.torso(tone), top.neckline(draw.between(0.12, 0.24))];
    if draw.chance(0.3) {
        let (print, size) = (draw.between(0.15, 1.0), draw.between(0.12, 0.24));
        layers.push(plain(Shape::Ellipse([0.0, -0.15], [size, size * draw.between(0.6, 1.2)]), print));
    }
    layers
}

fn trouser(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let (waist, hip, knee) = (draw.between(0.2, 0.28), draw.between(0.27, 0.36), draw.between(0.26, 0.38));
    let (hem, gap) = (draw.between(0.14, 0.22), draw.between(0.04, 0.1));
    let (crotch, bottom) = (draw.between(-0.5, -0.35), draw.between(0.88, 0.97));
    let outer = knee.max(gap + hem);
    let leg = [
        [-0.1, -0.95],
        [waist, -0.95],
        [hip, crotch - 0.05],
        [outer, 0.2],
        [gap + hem + 0.02, bottom],
        [gap + 0.02, bottom],
        [0.02, crotch],
        [-0.1, crotch],
    ];
    let mut layers =
        vec![cloth(polygon(&leg), tone), plain(Shape::Stroke([0.0, -0.88], [waist, -0.88], 0.03), tone * 0.7)];
    if draw.chance(0.5) {
        layers.push(plain(Shape::Stroke([hip * 0.55, -0.7], [outer * 0.6, 0.8], 0.015), tone * 0.8));
    }
    layers
}

fn pullover(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let chest = draw.between(0.4, 0.48);
    let top = Top {
        neck: draw.between(0.16, 0.24),
        shoulder: chest + 0.04,
        chest,
        hem: chest + draw.between(-0.06, 0.02),
        top: -0.85,
        bottom: draw.between(0.68, 0.84),
    };
    let (length, slope, width) = (draw.between(1.35, 1.55), draw.between(0.17, 0.27), draw.between(0.19, 0.25));
    let rib = top.bottom - 0.06;
    vec![
        top.sleeve(length, slope, width, tone * 0.88),
        top.torso(tone),
        plain(Shape::Stroke([0.0, rib], [top.hem - 0.03, rib], 0.05), tone * 0.72),
        plain(Shape::Ring([0.0, top.top], [top.neck + 0.03, 0.16], 0.035), tone * 0.75),
        top.neckline(draw.between(0.1, 0.16)),
    ]
}

fn dress(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let (bust, waist) = (draw.between(0.2, 0.28), draw.between(0.15, 0.22));
    let (hem, middle, bottom) = (draw.between(0.28, 0.6), draw.between(-0.3, -0.1), draw.between(0.85, 0.97));
    let strap = draw.between(0.11, 0.17);
    let body = [[-0.1, -0.72], [bust, -0.72], [bust, -0.55], [waist, middle], [hem, bottom], [-0.1, bottom]];
    let mut layers = vec![cloth(polygon(&body), tone)];
    if draw.chance(0.35) {
        let top = Top { neck: 0.14, shoulder: bust, chest: bust, hem: bust, top: -0.95, bottom: -0.5 };
        layers.push(top.torso(tone));
        layers.push(top.sleeve(draw.between(0.25, 0.9), draw.between(0.25, 0.5), 0.16, tone * 0.9));
        layers.push(top.neckline(draw.between(0.1, 0.3)));
    } else {
        layers.push(plain(Shape::Stroke([strap, -0.95], [strap, -0.7], 0.045), tone));
        layers.push(hole(Shape::Ellipse([0.0, -0.76], [strap - 0.03, draw.between(0.06, 0.16)])));
    }
    if draw.chance(0.6) {
        layers.push(plain(Shape::Stroke([0.0, middle], [waist, middle], 0.035), tone * draw.between(0.4, 0.8)));
    }
    layers
}

fn coat(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let chest = draw.between(0.42, 0.5);
    let top = Top {
        neck: 0.17,
        shoulder: chest + 0.02,
        chest,
        hem: chest + draw.between(0.04, 0.14),
        top: -0.93,
        bottom: draw.between(0.9, 0.98),
    };
    let (length, slope, width) = (draw.between(1.4, 1.6), draw.between(0.14, 0.22), draw.between(0.24, 0.3));
    let (lapel, opening) = (draw.between(-0.3, 0.05), draw.between(0.02, 0.045));
    let mut layers = vec![
        top.sleeve(length, slope, width, tone * 0.8),
        top.torso(tone),
        plain(polygon(&[[0.0, lapel], [0.05, -0.93], [0.24, -0.9], [0.27, -0.55]]), (tone * 1.25).min(1.0)),
        hole(polygon(&[[-0.1, -1.0], [0.1, -1.0], [0.0, lapel * 0.5 - 0.4]])),
        hole(Shape::Stroke([0.0, lapel], [0.0, 1.0], opening)),
    ];
    if draw.chance(0.5) {
        let belt = draw.between(0.05, 0.25);
        layers.push(plain(Shape::Stroke([0.0, belt], [top.chest + 0.02, belt], 0.045), tone * 0.5));
    } else {
        let pocket = draw.between(0.35, 0.5);
        layers.push(plain(Shape::Stroke([0.2, pocket], [0.36, pocket - 0.03], 0.025), tone * 0.5));
    }
    layers
}

fn sandal(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let (heel, sole) = (draw.between(0.0, 0.5), draw.between(0.04, 0.07));
    let (rise, base) = (0.55 - heel, 0.6);
    let mut layers = vec![
        plain(Shape::Stroke([-0.85, base], [-0.25, base], sole), tone),
        plain(Shape::Stroke([-0.25, base], [0.6, rise], sole), tone),
        plain(Shape::Stroke([0.6, rise], [0.85, rise - 0.03], sole), tone),
    ];
    // A wedge, a stiletto, or flat.
    if draw.chance(0.4) {
        layers.push(plain(polygon(&[[-0.15, base], [0.65, rise], [0.86, rise], [0.82, base + 0.05]]), tone * 0.8));
    } else {
        layers.push(plain(Shape::Stroke([0.8, rise], [0.76, base + 0.03], draw.between(0.03, 0.06)), tone * 0.85));
    }
    let strap = draw.between(0.035, 0.06);
    let count = 1 + draw.0.below(3);
    for i in 0..count {
        let x = -0.72 + 0.2 * i as f32 + draw.between(-0.03, 0.03);
        let arch = [x + 0.22, base - draw.between(0.22, 0.36)];
        layers.push(plain(Shape::Stroke([x, base - 0.02], arch, strap), tone * 0.9));
        layers.push(plain(Shape::Stroke(arch, [x + 0.3, base - 0.05], strap), tone * 0.9));
    }
    let ankle = [0.4, rise - draw.between(0.35, 0.5)];
    layers.push(plain(Shape::Stroke([0.84, rise - 0.05], [0.8, ankle[1]], strap), tone * 0.9));
    layers.push(plain(Shape::Stroke([0.8, ankle[1]], ankle, strap), tone * 0.9));
    layers.push(plain(Shape::Stroke(ankle, [0.45, rise + 0.05], strap), tone * 0.9));
    layers
}

fn shirt(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let chest = draw.between(0.34, 0.44);
    let top = Top {
        neck: 0.2,
        shoulder: chest + 0.04,
        chest,
        hem: chest + draw.between(-0.03, 0.08),
        top: -0.9,
        bottom: draw.between(0.82, 0.95),
    };
    let half = draw.chance(0.3);
    let length = if half { draw.between(0.5, 0.7) } else { draw.between(1.15, 1.4) };
    let (slope, width) =
        (if half { draw.between(0.6, 0.9) } else { draw.between(0.3, 0.45) }, draw.between(0.17, 0.22));
    let collar = if tone > 0.75 { tone * 0.65 } else { (tone * 1.4).min(1.0) };
    let mut layers = vec![
        top.sleeve(length, slope, width, tone * 0.9),
        top.torso(tone),
        hole(polygon(&[[-0.12, -1.0], [0.12, -1.0], [0.0, draw.between(-0.75, -0.6)]])),
        plain(polygon(&[[0.03, -0.68], [0.12, -0.95], [0.24, -0.9], [0.16, -0.66]]), collar),
        plain(Shape::Stroke([0.0, -0.6], [0.0, top.bottom - 0.04], 0.028), tone * 0.55),
    ];
    for i in 0..5 {
        layers.push(plain(Shape::Ellipse([0.0, -0.5 + 0.28 * i as f32], [0.045, 0.045]), collar));
    }
    layers
}

fn sneaker(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let (toe, top, tongue) = (draw.between(0.2, 0.3), draw.between(-0.3, -0.12), draw.between(-0.12, 0.08));
    let sole = if draw.chance(0.6) { draw.between(0.8, 1.0) } else { draw.between(0.2, 0.4) };
    let upper = [
        [-0.9, 0.45],
        [-0.88, toe],
        [-0.62, toe - 0.1],
        [tongue - 0.1, top + 0.12],
        [tongue + 0.08, top - 0.06],
        [0.35, top + 0.16],
        [0.72, top],
        [0.88, top + 0.03],
        [0.9, 0.45],
    ];
    let mut layers = vec![
        cloth(polygon(&upper), tone),
        plain(Shape::Ellipse([-0.72, 0.36], [0.18, 0.44 - toe]), tone * 0.8),
        plain(Shape::Stroke([-0.88, 0.5], [0.88, 0.5], draw.between(0.06, 0.09)), sole),
    ];
    for i in 0..3 {
        let x = tongue - 0.12 - 0.13 * i as f32;
        let y = top + 0.12 + 0.09 * i as f32;
        layers.push(plain(Shape::Stroke([x, y], [x + 0.14, y + 0.1], 0.025), sole));
    }
    if draw.chance(0.5) {
        layers.push(plain(Shape::Stroke([-0.1, 0.36], [0.5, 0.05], draw.between(0.03, 0.06)), sole));
    }
    layers
}

fn bag(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let (top, bottom) = (draw.between(-0.35, -0.05), draw.between(0.7, 0.85));
    let (above, below) = (draw.between(0.55, 0.82), draw.between(0.7, 0.88));
    let (reach, rise) = (above * draw.between(0.45, 0.8), draw.between(0.35, 0.6));
    let body =
        Shape::Polygon(vec![[-0.3, top], [above, top], [below, bottom], [-0.3, bottom]], draw.between(0.02, 0.08));
    let mut layers =
        vec![plain(Shape::Ring([0.0, top], [reach, rise], draw.between(0.035, 0.07)), tone * 0.85), cloth(body, tone)];
    let mark = tone * draw.between(0.45, 0.75);
    if draw.chance(0.5) {
        let flap = top + (bottom - top) * draw.between(0.3, 0.5);
        layers.push(plain(Shape::Stroke([0.0, flap], [below, flap], 0.025), mark));
    }
    if draw.chance(0.6) {
        layers.push(plain(Shape::Ellipse([0.0, (top + bottom) / 2.0], [0.1, 0.08]), (mark * 1.6).min(1.0)));
    }
    layers
}

fn boot(draw: &mut Draw<'_>, tone: f32) -> Vec<Layer> {
    let (shaft, toe) = (draw.between(-0.95, -0.6), draw.between(0.35, 0.48));
    let (front, heel) = (draw.between(-0.1, 0.08), draw.between(0.0, 0.28));
    let base = 0.82 - heel * 0.5;
    let upper = [
        [-0.85, 0.72],
        [-0.82, toe],
        [-0.55, toe - 0.1],
        [front, 0.1],
        [front, shaft],
        [0.72, shaft - 0.02],
        [0.74, 0.2],
        [0.82, base],
        [0.1, base],
        [-0.2, 0.76],
    ];
    let sole = if draw.chance(0.5) { tone * 0.45 } else { (tone * 1.2).min(1.0) };
    let mut layers = vec![
        cloth(polygon(&upper), tone),
        plain(polygon(&[[0.45, base], [0.83, base], [0.8, 0.9], [0.5, 0.9]]), sole),
        plain(Shape::Stroke([-0.84, 0.78], [-0.15, 0.8], 0.05), sole),
        plain(Shape::Stroke([-0.15, 0.8], [0.5, base], 0.04), sole),
    ];
    if draw.chance(0.5) {
        layers.push(plain(Shape::Stroke([front + 0.05, shaft + 0.12], [0.68, shaft + 0.1], 0.03), tone * 0.55));
    }
    if draw.chance(0.4) {
        layers.push(plain(Shape::Stroke([0.3, shaft + 0.2], [0.28, 0.2], 0.06), tone * 0.6));
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Digest;

    fn images(split: &str, n: usize) -> Vec<[u8; PIXELS]> {
        (0..n).map(|i| image(Streams::new(7), split, i)).collect()
    }

    #[test]
    fn the_bytes_are_pinned() {
        // A change here changes the data of pipelines: raise the kind's version.
        let all: Vec<u8> = images("train", 50).concat();
        insta::assert_snapshot!(Digest::of(&all).short(), @"b8781b93852f");
    }

    #[test]
    fn every_garment_is_inside_the_image_and_covers_a_part_of_it() {
        for (i, image) in images("test", 200).iter().enumerate() {
            let covered = image.iter().filter(|p| **p > 40).count();
            assert!((60..620).contains(&covered), "image {i} covers {covered} pixels");
            let bright = image.iter().copied().max();
            assert!(bright > Some(90), "image {i} is no brighter than {bright:?}");
        }
    }

    #[test]
    fn the_nearest_image_is_mostly_of_the_same_class_but_never_the_same() {
        let (train, test) = (images("train", 600), images("test", 200));
        let distance = |a: &[u8; PIXELS], b: &[u8; PIXELS]| -> i64 {
            a.iter().zip(b).map(|(x, y)| (i64::from(*x) - i64::from(*y)).pow(2)).sum()
        };
        let mut right = 0;
        for (i, image) in test.iter().enumerate() {
            let nearest = (0..train.len()).min_by_key(|j| distance(image, &train[*j])).unwrap();
            assert!(distance(image, &train[nearest]) > 0);
            right += usize::from(nearest % 10 == i % 10);
        }
        assert!(right > 180, "{right} of 200");
    }
}
