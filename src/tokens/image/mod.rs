//! What an image costs.

mod size;

use super::name::{bare, begins};
use crate::types::ImageDetail;
pub(super) use size::size_of;

/// A side of an image, in pixels, where it cannot be known: behind an address, or in a form not read here.
const UNKNOWN: (u64, u64) = (1024, 1024);

/// How a family of models prices images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Images {
    /// OpenAI: scaled down into 2048 x 2048, then to a shortest side of 768; a base, and so much for each started square
    /// of 512. At low detail the base alone.
    Tiles { base: u64, tile: u64 },
    /// OpenAI's small and newest models: started squares of 32, scaled down to at most so many of them; so many
    /// hundredths each. Detail makes no difference.
    Patches { hundredths: u64, most: u64 },
    /// Anthropic: pixels by 750, scaled down to about 1.2 megapixels: at most 1,600.
    Area,
    /// Google: 258 up to 384 x 384, otherwise 258 for each started square of 768.
    Crops,
}

/// OpenAI's guide "Images and vision", autumn 2025; the longest beginning decides. From gpt-5.2 on it is
/// 1.2 a patch, as users measured (community.openai.com, "Introducing GPT-5.4 mini and nano"); by them the guide's 1.62 and
/// 2.46 are more than gpt-5-mini and -nano are billed.
const OPENAI: &[(&str, Images)] = &[
    ("gpt-4o-mini", Images::Tiles { base: 2833, tile: 5667 }),
    ("gpt-5", Images::Tiles { base: 70, tile: 140 }),
    ("gpt-5.2", Images::Patches { hundredths: 120, most: 1536 }),
    ("gpt-5.3", Images::Patches { hundredths: 120, most: 1536 }),
    ("gpt-5.4", Images::Patches { hundredths: 120, most: 2500 }),
    ("gpt-5.4-mini", Images::Patches { hundredths: 120, most: 1536 }),
    ("gpt-5.4-nano", Images::Patches { hundredths: 120, most: 1536 }),
    ("gpt-5-mini", Images::Patches { hundredths: 162, most: 1536 }),
    ("gpt-5-nano", Images::Patches { hundredths: 246, most: 1536 }),
    ("gpt-4.1-mini", Images::Patches { hundredths: 162, most: 1536 }),
    ("gpt-4.1-nano", Images::Patches { hundredths: 246, most: 1536 }),
    ("o4-mini", Images::Patches { hundredths: 172, most: 1536 }),
    ("o1", Images::Tiles { base: 75, tile: 150 }),
    ("o3", Images::Tiles { base: 75, tile: 150 }),
    ("computer-use-preview", Images::Tiles { base: 65, tile: 129 }),
];

impl Images {
    /// gpt-4o, gpt-4.1, gpt-4.5, and whatever is not known.
    pub(super) const COMMON: Self = Self::Tiles { base: 85, tile: 170 };

    /// The rule of a model of OpenAI's.
    pub(super) fn of(model: &str) -> Self {
        let model = bare(model);
        let found = OPENAI.iter().filter(|(beginning, _)| begins(model, beginning));
        found.max_by_key(|(beginning, _)| beginning.len()).map_or(Self::COMMON, |(_, images)| *images)
    }

    /// An image by its address or data URL.
    pub(super) fn of_url(&self, url: &str, detail: Option<&ImageDetail>) -> u64 {
        self.tokens(size_of(url), detail == Some(&ImageDetail::Low))
    }

    /// An image of this width and height.
    pub(super) fn tokens(&self, size: Option<(u64, u64)>, low: bool) -> u64 {
        // Beyond any image: so that no product overflows.
        let (width, height) =
            size.map_or(UNKNOWN, |(width, height)| (width.clamp(1, 1 << 20), height.clamp(1, 1 << 20)));
        match *self {
            Self::Tiles { base, .. } if low => base,
            Self::Tiles { base, tile } => {
                let within = scaled(width, height, 2048, width.max(height));
                let (width, height) = scaled(within.0, within.1, 768, within.0.min(within.1));
                base + tile * width.div_ceil(512) * height.div_ceil(512)
            }
            Self::Patches { hundredths, most } => (patches(width, height, most) * hundredths).div_ceil(100),
            Self::Area => (width * height).div_ceil(750).min(1600),
            Self::Crops if width <= 384 && height <= 384 => 258,
            Self::Crops => 258 * width.div_ceil(768) * height.div_ceil(768),
        }
    }
}

/// Both sides scaled down so that `side` becomes at most `most`, to the nearest pixel.
fn scaled(width: u64, height: u64, most: u64, side: u64) -> (u64, u64) {
    if side <= most {
        return (width, height);
    }
    let scale = |length: u64| ((2 * length * most + side) / (2 * side)).max(1);
    (scale(width), scale(height))
}

/// The guide's two steps: to the area of so many patches, then so that a whole number of patches fits one side.
fn patches(width: u64, height: u64, most: u64) -> u64 {
    const SIDE: u64 = 32;
    let whole = width.div_ceil(SIDE) * height.div_ceil(SIDE);
    if whole <= most {
        return whole;
    }
    let (across, down) = (width as f64 / SIDE as f64, height as f64 / SIDE as f64);
    let shrink = (most as f64 / (across * down)).sqrt();
    // A side that would be less than one patch is one: nothing is left of it to round down.
    let fits = |length: f64| if length * shrink < 1.0 { 1.0 } else { (length * shrink).floor() / (length * shrink) };
    let shrink = (shrink * fits(across).min(fits(down))).min(1.0);
    // A side of a whole number of patches may come out a hair above it.
    let count = |length: f64| (length * shrink - 1e-6).ceil().max(1.0);
    ((count(across) * count(down)) as u64).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_cost_what_the_guide_says() {
        let cost = |model: &str, width, height, low| Images::of(model).tokens(Some((width, height)), low);
        // The guide's own examples.
        assert_eq!(cost("gpt-4o", 1024, 1024, false), 765);
        assert_eq!(cost("gpt-4o", 2048, 4096, false), 1105);
        assert_eq!(cost("gpt-4o", 4096, 8192, true), 85);
        assert_eq!(cost("gpt-4.1-mini", 1024, 1024, false), 1659, "1,024 patches");
        assert_eq!(Images::Patches { hundredths: 100, most: 1536 }.tokens(Some((1800, 2400)), false), 1452);
        // Billed, as users report.
        assert_eq!(cost("gpt-4.1", 2050, 513, false), 765, "rounds to two tiles by one and a half");
        assert_eq!(cost("gpt-4.1", 2049, 513, false), 1445);
        assert_eq!(cost("gpt-4o-mini", 128, 64, false), 8500);
        for (model, tokens) in [("gpt-5.1", 630), ("gpt-5.2", 1229), ("gpt-5.4", 1229), ("GPT-5.4-Mini", 1229)] {
            assert_eq!(cost(model, 1024, 1024, false), tokens, "{model}");
        }
        assert_eq!(cost("o3-2025-04-16", 128, 64, false), 225);
        // Every rule has a ceiling, and no size overflows.
        for model in ["gpt-4o", "gpt-5", "gpt-5-nano", "o4-mini", "gpt-4o-mini"] {
            let huge = cost(model, u64::MAX, u64::MAX, false);
            assert!(huge <= 60_000 && huge > 0, "{model} {huge}");
            assert!(cost(model, u64::MAX, 0, false) <= 60_000, "{model}");
        }
        // A long strip is cut down to as many patches as there may be, not to one.
        for (width, height) in [(100_000, 32), (32, 100_000), (1 << 20, 1), (60_000, 40)] {
            let strip = Images::Patches { hundredths: 100, most: 1536 }.tokens(Some((width, height)), false);
            assert!((1_400..=1_536).contains(&strip), "{width} x {height}: {strip}");
        }
        assert_eq!(Images::Area.tokens(Some((1000, 1000)), false), 1334);
        assert_eq!(Images::Crops.tokens(Some((384, 384)), false), 258);
        assert_eq!(Images::Crops.tokens(Some((1000, 700)), false), 516);
    }
}
