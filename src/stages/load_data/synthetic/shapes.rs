//! Flat shapes by their signed distance, and their rendering to 28×28 grey levels.
//!
//! A garment is a list of layers, painted one over the other. A layer covers a pixel by `½ − d`, clamped to 0…1, where
//! d is the distance of the pixel's centre from the shape's edge in pixels, negative inside: an anti-aliased edge one
//! pixel wide. Coordinates: x to the right, y down, both −1…1 over the image. Only `+ − × ÷ √` and libm's sine are
//! used, so a seed gives the same bytes everywhere.

use super::super::idx::{PIXELS, SIDE};

/// A point or a direction.
pub(super) type Point = [f32; 2];

/// A shape with a sharp edge.
pub(super) enum Shape {
    /// A polygon by its corners, in either sense, rounded by a radius.
    Polygon(Vec<Point>, f32),
    /// All points within a radius of a line segment.
    Stroke(Point, Point, f32),
    /// An ellipse by its centre and half axes.
    Ellipse(Point, Point),
    /// All points within a distance (the number) of an ellipse's edge.
    Ring(Point, Point, f32),
}

/// A shape with what it is painted with.
pub(super) struct Layer {
    /// What is covered.
    pub(super) shape: Shape,
    /// Brightness, 0 (background) … 1.
    pub(super) tone: f32,
    /// Whether the garment's texture shows on it.
    pub(super) textured: bool,
}

/// A woven or printed pattern.
#[derive(Clone, Copy)]
pub(super) enum Texture {
    /// None.
    Plain,
    /// Stripes across; waves per unit.
    Across(f32),
    /// Stripes along; waves per unit.
    Along(f32),
    /// Both.
    Check(f32),
}

/// A garment, ready to be painted.
pub(super) struct Garment {
    /// From the back to the front.
    pub(super) layers: Vec<Layer>,
    /// Whether only x ≥ 0 is described and the left half mirrors it.
    pub(super) mirrored: bool,
    /// Its pattern.
    pub(super) texture: Texture,
    /// How much the pattern darkens, 0…1.
    pub(super) depth: f32,
    /// Phases of the folds: broad shades across the cloth.
    pub(super) folds: [f32; 3],
}

/// Where the garment lies in the image.
pub(super) struct Pose {
    /// The position of the garment's centre, in units of half the image.
    pub(super) shift: Point,
    /// Its size.
    pub(super) scale: f32,
    /// The tangent of the angle by which it is turned; small.
    pub(super) tilt: f32,
}

impl Shape {
    /// The distance from the edge, negative inside. That of an ellipse is an approximation, good near the edge.
    fn distance(&self, p: Point) -> f32 {
        match self {
            Self::Polygon(corners, radius) => polygon(corners, p) - radius,
            Self::Stroke(a, b, radius) => segment(*a, *b, p).sqrt() - radius,
            Self::Ellipse(centre, half) => ellipse(*centre, *half, p),
            Self::Ring(centre, half, width) => ellipse(*centre, *half, p).abs() - width,
        }
    }
}

/// The squared distance of `p` from the segment a–b.
fn segment(a: Point, b: Point, p: Point) -> f32 {
    let (ab, ap) = ([b[0] - a[0], b[1] - a[1]], [p[0] - a[0], p[1] - a[1]]);
    let along = ((ap[0] * ab[0] + ap[1] * ab[1]) / (ab[0] * ab[0] + ab[1] * ab[1]).max(1e-9)).clamp(0.0, 1.0);
    let (dx, dy) = (ap[0] - along * ab[0], ap[1] - along * ab[1]);
    dx * dx + dy * dy
}

fn polygon(corners: &[Point], p: Point) -> f32 {
    let (mut nearest, mut inside) = (f32::MAX, false);
    for (i, b) in corners.iter().enumerate() {
        let a = corners[(i + corners.len() - 1) % corners.len()];
        nearest = nearest.min(segment(a, *b, p));
        // A ray to the right crosses this edge.
        if (a[1] > p[1]) != (b[1] > p[1]) && p[0] < (b[0] - a[0]) * (p[1] - a[1]) / (b[1] - a[1]) + a[0] {
            inside = !inside;
        }
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

/// f/|∇f| of the ellipse's implicit function f: the distance, to first order.
fn ellipse(centre: Point, half: Point, p: Point) -> f32 {
    let (x, y) = ((p[0] - centre[0]) / half[0], (p[1] - centre[1]) / half[1]);
    let radius = (x * x + y * y).sqrt();
    let (gx, gy) = (x / half[0], y / half[1]);
    (radius - 1.0) * radius.max(1e-3) / (gx * gx + gy * gy).sqrt().max(1e-3)
}

impl Garment {
    /// Paints it; `grain` is added to every covered pixel, in grey levels.
    pub(super) fn paint(&self, pose: &Pose, grain: &[f32]) -> [u8; PIXELS] {
        let mut image = [0; PIXELS];
        let half = SIDE as f32 / 2.0;
        let pixel = 1.0 / half / pose.scale;
        for (i, out) in image.iter_mut().enumerate() {
            let x = ((i % SIDE) as f32 + 0.5) / half - 1.0 - pose.shift[0];
            let y = ((i / SIDE) as f32 + 0.5) / half - 1.0 - pose.shift[1];
            let (x, y) = ((x + pose.tilt * y) / pose.scale, (y - pose.tilt * x) / pose.scale);
            let cloth = self.cloth([x, y]);
            let p = [if self.mirrored { x.abs() } else { x }, y];
            let (mut tone, mut covered) = (0.0, 0.0f32);
            for layer in &self.layers {
                let cover = (0.5 - layer.shape.distance(p) / pixel).clamp(0.0, 1.0);
                let paint = if layer.textured { layer.tone * cloth } else { layer.tone };
                tone += cover * (paint - tone);
                covered += cover * (f32::from(u8::from(layer.tone > 0.0)) - covered);
            }
            let grain = grain.get(i).copied().unwrap_or(0.0) * covered;
            // Rust rounds the same everywhere; clamped, so the cast is exact.
            *out = (tone * 255.0 + grain).clamp(0.0, 255.0).round() as u8;
        }
        image
    }

    /// The brightness of the cloth at a point: folds and pattern.
    fn cloth(&self, p: Point) -> f32 {
        let fold = 0.05 * libm::sinf(5.0 * p[0] + 2.0 * p[1] + self.folds[0])
            + 0.04 * libm::sinf(9.0 * p[0] - 4.0 * p[1] + self.folds[1])
            + 0.03 * libm::sinf(3.0 * p[1] + self.folds[2]);
        let wave = |x: f32, waves: f32| 0.5 - 0.5 * libm::sinf(core::f32::consts::TAU * waves * x + self.folds[2]);
        let pattern = match self.texture {
            Texture::Plain => 0.0,
            Texture::Across(waves) => wave(p[1], waves),
            Texture::Along(waves) => wave(p[0], waves),
            Texture::Check(waves) => 0.5 * (wave(p[0], waves) + wave(p[1], waves)),
        };
        0.92 + fold - self.depth * pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_negative_inside_and_true_near_the_edge() {
        let square = Shape::Polygon(vec![[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], 0.0);
        assert_eq!(square.distance([0.0, 0.0]), -0.5);
        assert_eq!(square.distance([0.75, 0.0]), 0.25);
        assert_eq!(Shape::Stroke([0.0, 0.0], [1.0, 0.0], 0.25).distance([0.5, 0.5]), 0.25);
        for (p, d) in [([0.6, 0.0], 0.1), ([0.45, 0.0], -0.05), ([0.0, 0.25], -0.05), ([0.0, 0.3], 0.0)] {
            let found = Shape::Ellipse([0.0, 0.0], [0.5, 0.3]).distance(p);
            assert!((found - d).abs() < 0.02, "{p:?}: {found}");
        }
        assert!(Shape::Ellipse([0.0, 0.0], [0.5, 0.3]).distance([0.0, 0.0]) < 0.0);
    }

    #[test]
    fn an_edge_through_a_pixel_covers_it_in_part() {
        // The left half of the image plus half a pixel column.
        let edge = 0.5 / 14.0;
        let shape = Shape::Polygon(vec![[-2.0, -2.0], [edge, -2.0], [edge, 2.0], [-2.0, 2.0]], 0.0);
        let garment = Garment {
            layers: vec![Layer { shape, tone: 1.0, textured: false }],
            mirrored: false,
            texture: Texture::Plain,
            depth: 0.0,
            folds: [0.0; 3],
        };
        let image = garment.paint(&Pose { shift: [0.0, 0.0], scale: 1.0, tilt: 0.0 }, &[]);
        assert_eq!([image[13], image[14], image[15]], [255, 128, 0]);
    }
}
