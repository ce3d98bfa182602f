//! Pictures that programs wrote, as `<img>` with all bytes in its address. A browser runs no script of an SVG there,
//! and loads nothing that it refers to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A picture with more bytes is not shown.
pub(super) const LARGEST: u64 = 8 << 20;
/// A picture with more pixels is not shown: a browser takes four bytes for each.
const MOST_PIXELS: usize = 100_000_000;

/// The format of a picture, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    Gif,
    WebP,
    Svg,
}

const ENDINGS: [(&str, Format); 6] = [
    (".png", Format::Png),
    (".jpg", Format::Jpeg),
    (".jpeg", Format::Jpeg),
    (".gif", Format::Gif),
    (".webp", Format::WebP),
    (".svg", Format::Svg),
];

fn format_of(name: &str) -> Option<Format> {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format)
}

/// Whether a file of this name is a picture.
pub(crate) fn is_picture(name: &str) -> bool {
    format_of(name).is_some()
}

/// The media type of a picture of this name.
pub(crate) fn media_type(name: &str) -> Option<&'static str> {
    format_of(name).map(Format::media_type)
}

/// The address of a picture.
///
/// # Errors
/// If a browser would not show it. The text says why.
pub(super) fn address(name: &str, bytes: &[u8]) -> Result<String, String> {
    let Some(format) = format_of(name) else { return Err("not a picture".to_owned()) };
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    format.check(bytes)?;
    Ok(format!("data:{};base64,{}", format.media_type(), STANDARD.encode(bytes)))
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
            Self::Svg => "image/svg+xml",
        }
    }

    fn check(self, bytes: &[u8]) -> Result<(), String> {
        let begins = match self {
            Self::Png => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
            Self::Jpeg => bytes.starts_with(b"\xff\xd8\xff"),
            Self::Gif => bytes.starts_with(b"GIF8"),
            Self::WebP => bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"),
            Self::Svg => return check_svg(bytes),
        };
        if !begins {
            return Err(format!("not a {} file", self.name()));
        }
        // Every PNG ends with this chunk, perhaps followed by bytes that belong to no picture.
        if self == Self::Png && !bytes.windows(4).rev().any(|chunk| chunk == b"IEND") {
            return Err("the PNG file is cut off".to_owned());
        }
        // A browser shows a picture without a readable size as broken.
        match imagesize::blob_size(bytes) {
            Ok(size) if size.width.saturating_mul(size.height) > MOST_PIXELS => {
                Err(format!("pictures of more than {} megapixels are not shown", MOST_PIXELS / 1_000_000))
            }
            _ => Ok(()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Svg => "SVG",
        }
    }
}

fn check_svg(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the SVG file is not valid UTF-8".to_owned())?;
    if !text.contains("<svg") {
        return Err("not an SVG file".to_owned());
    }
    if !text.contains("http://www.w3.org/2000/svg") {
        return Err("the SVG file lacks xmlns=\"http://www.w3.org/2000/svg\"".to_owned());
    }
    if !text.trim_end().ends_with('>') {
        return Err("the SVG file is cut off".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Tensor;
    use crate::report::image::grid;

    #[test]
    fn pictures_become_addresses_and_broken_ones_a_reason() {
        let png = grid(&Tensor::new([1, 2, 2], &[1u8, 2, 3, 4]).unwrap(), 1, 1).unwrap();
        assert!(address("A.PNG", &png).unwrap().starts_with("data:image/png;base64,iVBOR"));
        let svg = "<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"><path/></svg>\n";
        assert!(address("a.svg", svg.as_bytes()).unwrap().starts_with("data:image/svg+xml;base64,PD94"));
        assert!(address("a.jpeg", b"\xff\xd8\xff\xe0").unwrap().starts_with("data:image/jpeg;base64,"));
        let reasons: Vec<String> = [
            ("a.png", &b""[..]),
            ("a.png", b"hello"),
            ("a.png", &png[..png.len() - 10]),
            ("a.jpg", &png),
            ("a.webp", b"RIFF"),
            ("a.svg", b"<html></html>"),
            ("a.svg", b"<svg></svg>"),
            ("a.svg", &svg.as_bytes()[..svg.len() - 3]),
            ("a.svg", b"\xff<svg"),
            ("a.txt", b"text"),
        ]
        .map(|(name, bytes)| address(name, bytes).unwrap_err())
        .into();
        insta::assert_snapshot!(reasons.join("\n"), @r#"
        the file is empty
        not a PNG file
        the PNG file is cut off
        not a JPEG file
        not a WebP file
        not an SVG file
        the SVG file lacks xmlns="http://www.w3.org/2000/svg"
        the SVG file is cut off
        the SVG file is not valid UTF-8
        not a picture
        "#);
    }

    #[test]
    fn picture_of_more_than_100_megapixels_is_not_shown() {
        let png = |height: u32| {
            let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x27\x10".to_vec();
            png.extend(height.to_be_bytes());
            [&*png, b"\x08\0\0\0\0\0\0\0\0\0\0\0\0IEND"].concat()
        };
        assert!(address("a.png", &png(10_000)).is_ok());
        let gif = b"GIF89a\xff\xff\xff\xff\0\0\0";
        let jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\0\0\0\0\0\0\0\0\0\0";
        let webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x7f\0\xff\x7f\0";
        for (name, bytes) in
            [("a.png", &*png(10_001)), ("a.png", &*png(u32::MAX)), ("a.gif", gif), ("a.jpg", jpeg), ("a.webp", webp)]
        {
            let reason = "pictures of more than 100 megapixels are not shown";
            assert_eq!(address(name, bytes).unwrap_err(), reason, "{name}");
        }
    }
}
