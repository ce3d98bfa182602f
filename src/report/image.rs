//! Grey images as PNG: grids for the report and for `export`.
//!
//! A grid of `n` images of `h` × `w` pixels in `c` columns has `⌈n / c⌉` rows. Neighbours are one pixel apart (times
//! `scale`), and pixels without an image are transparent, for light and dark backgrounds. The bytes depend only on the
//! pixels, the columns and the scale.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::artifact::{Tensor, TensorError};
use crate::error::{Category, Error};
use crate::stage::StageError;

/// Why images can't be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The tensor is not a stack of images.
    #[error("images must be a tensor of shape [count, height, width], not {shape:?}")]
    Shape {
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The grid would have no pixel, or more than a PNG can hold.
    #[error("a grid of {width} × {height} pixels can't be drawn")]
    Size {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
    },
    /// The elements are not bytes.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The encoder failed.
    #[error("can't encode a PNG")]
    Encode(#[from] png::EncodingError),
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Self::new(Category::StageFailed, error.to_string()).caused_by(error)
    }
}

impl From<ImageError> for StageError {
    fn from(error: ImageError) -> Self {
        Self::failed(error.to_string())
    }
}

/// A stack of grey images, `u8 [count, height, width]`, as a PNG of several columns, each pixel `scale` × `scale`.
///
/// # Errors
/// If the tensor is something else, if there is no image, or if the grid is larger than a PNG can be.
pub fn grid(images: &Tensor, columns: usize, scale: usize) -> Result<Vec<u8>, ImageError> {
    let stack = Stack::new(images)?;
    stack.grid(0, stack.count, columns, scale)
}

/// A stack of images, read once and drawn in parts.
pub(super) struct Stack {
    pixels: Vec<u8>,
    /// How many images there are.
    pub(super) count: usize,
    /// Pixels of one image, down.
    pub(super) height: usize,
    /// Pixels of one image, across.
    pub(super) width: usize,
}

impl Stack {
    pub(super) fn new(images: &Tensor) -> Result<Self, ImageError> {
        let &[count, height, width] = images.shape() else {
            return Err(ImageError::Shape { shape: images.shape().to_vec() });
        };
        Ok(Self { pixels: images.to_vec::<u8>()?, count, height, width })
    }

    /// Whether its first images are all of these.
    pub(super) fn begins_with(&self, images: &Self) -> bool {
        (self.height, self.width) == (images.height, images.width) && self.pixels.starts_with(&images.pixels)
    }

    /// Images of half the size, each pixel the mean of four.
    pub(super) fn halved(&self) -> Self {
        let (height, width) = (self.height / 2, self.width / 2);
        let pixel =
            |image: usize, y: usize, x: usize| u16::from(self.pixels[(image * self.height + y) * self.width + x]);
        let mean = |image: usize, y: usize, x: usize| {
            let sum: u16 =
                [(0, 0), (0, 1), (1, 0), (1, 1)].iter().map(|(dy, dx)| pixel(image, 2 * y + dy, 2 * x + dx)).sum();
            (sum / 4) as u8
        };
        let rows = (0..self.count).flat_map(|image| (0..height).map(move |y| (image, y)));
        let pixels = rows.flat_map(|(image, y)| (0..width).map(move |x| mean(image, y, x))).collect();
        Self { pixels, count: self.count, height, width }
    }

    /// The images from `first` on, at most `count` of them.
    pub(super) fn grid(&self, first: usize, count: usize, columns: usize, scale: usize) -> Result<Vec<u8>, ImageError> {
        let count = count.min(self.count.saturating_sub(first));
        const LARGEST: usize = 1 << 14;
        if ![self.height, self.width, count].iter().all(|n| (1..=LARGEST).contains(n)) {
            return Err(ImageError::Size { width: self.width, height: self.height.saturating_mul(count) });
        }
        let columns = columns.clamp(1, count);
        let rows = count.div_ceil(columns);
        let scale = scale.clamp(1, LARGEST);
        let width = (columns * (self.width + 1)).saturating_sub(1) * scale;
        let height = (rows * (self.height + 1)).saturating_sub(1) * scale;
        let size = |w: usize, h: usize| Some((u32::try_from(w).ok()?, u32::try_from(h).ok()?));
        let drawable = width.saturating_mul(height) <= 1 << 28;
        let (Some((png_width, png_height)), true) = (size(width, height), drawable) else {
            return Err(ImageError::Size { width, height });
        };
        // Grey and alpha, two bytes a pixel; zero is transparent.
        let mut pixels = vec![0; width * height * 2];
        for (y, line) in pixels.chunks_exact_mut(width * 2).enumerate() {
            let (row, inner_y) = (y / scale / (self.height + 1), y / scale % (self.height + 1));
            for (x, pixel) in line.chunks_exact_mut(2).enumerate() {
                let (column, inner_x) = (x / scale / (self.width + 1), x / scale % (self.width + 1));
                let index = row * columns + column;
                if inner_y < self.height && inner_x < self.width && index < count {
                    let at = ((first + index) * self.height + inner_y) * self.width + inner_x;
                    pixel.copy_from_slice(&[self.pixels[at], 255]);
                }
            }
        }
        encode(png_width, png_height, &pixels)
    }
}

fn encode(width: u32, height: u32, grey_alpha: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::GrayscaleAlpha);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(grey_alpha)?;
    writer.finish()?;
    Ok(bytes)
}

/// A PNG as the address of an `<img>`.
pub(super) fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn three_images_in_two_columns_leave_gaps_and_the_last_cell_transparent() {
        let images = Tensor::new([3, 1, 2], &[10u8, 20, 30, 40, 50, 60]).unwrap();
        let (width, height, pixels) = decode(&grid(&images, 2, 1).unwrap());
        assert_eq!((width, height), (5, 3));
        let shown: Vec<Option<u8>> = pixels.chunks(2).map(|p| (p[1] == 255).then_some(p[0])).collect();
        let row = |y: usize| &shown[y * 5..(y + 1) * 5];
        assert_eq!(row(0), [Some(10), Some(20), None, Some(30), Some(40)]);
        assert_eq!(row(1), [None; 5]);
        assert_eq!(row(2), [Some(50), Some(60), None, None, None]);
    }

    #[test]
    fn a_scale_repeats_pixels() {
        let images = Tensor::new([1, 1, 1], &[7u8]).unwrap();
        assert_eq!(decode(&grid(&images, 4, 3).unwrap()), (3, 3, [7, 255].repeat(9)));
    }

    #[test]
    fn the_same_images_are_the_same_bytes() {
        let images = Tensor::new([4, 5, 5], &[9u8; 100]).unwrap();
        assert_eq!(grid(&images, 3, 2).unwrap(), grid(&images.clone(), 3, 2).unwrap());
    }

    #[test]
    fn tensor_that_is_not_an_image_stack_is_refused() {
        let messages: Vec<String> = [
            Tensor::vector(&[1u8, 2]),
            Tensor::new([1, 1, 1], &[1.0f32]).unwrap(),
            Tensor::new([0, 28, 28], &[0u8; 0]).unwrap(),
        ]
        .iter()
        .map(|t| grid(t, 1, 1).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(messages.join("\n"), @r"
        images must be a tensor of shape [count, height, width], not [2]
        the tensor holds F32, not U8
        a grid of 28 × 0 pixels can't be drawn
        ");
    }
}
