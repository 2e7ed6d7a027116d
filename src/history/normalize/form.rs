//! The parts of a message on their way into their form.

use std::borrow::Cow;

use super::documents::repeated_documents;
use super::page::Page;
use super::passages::{PASSAGE, Strike, repeated_passages};
use super::repeats::without_repeated_lines;
use super::squeeze::squeeze;
use super::white_space::{Place, tidy};

/// How often a message is gone over until it stays as it is. It takes two: one to change it and one to see that nothing
/// is left; taking something away seldom shows something else to take away. What does not come to rest is left alone,
/// so that a message in its form is in its form for good.
const ROUNDS: usize = 4;

/// A part of a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece<'a> {
    Text {
        text: Cow<'a, str>,
        /// Whether the part must stay, for something hangs on it.
        bound: bool,
    },
    /// An image, a sound.
    Media,
    /// Said before in an earlier part.
    Gone,
}

impl<'a> Piece<'a> {
    pub(super) fn text(text: &'a str, bound: bool) -> Self {
        Self::Text { text: Cow::Borrowed(text), bound }
    }

    fn replace(&mut self, new: String) {
        if let Self::Text { text, .. } = self {
            *text = Cow::Owned(new);
        }
    }
}

/// What was done to a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) changed: bool,
    /// How many parts were looked at: code that no part ends may go on in the next, which is left alone then.
    reach: usize,
}

/// White space in one form.
pub(super) fn safe(pieces: &mut [Piece<'_>]) -> Done {
    let there = |piece: &Piece<'_>| *piece != Piece::Gone;
    let (first, last) = (pieces.iter().position(there), pieces.iter().rposition(there));
    let mut done = Done { changed: false, reach: pieces.len() };
    for (at, piece) in pieces.iter_mut().enumerate() {
        let Piece::Text { text, .. } = &*piece else { continue };
        let tidy = tidy(text, Place { first: Some(at) == first, last: Some(at) == last });
        if let Some(new) = tidy.text {
            piece.replace(new);
            done.changed = true;
        }
        if tidy.open {
            done.reach = at + 1;
            break;
        }
    }
    done
}

/// Gaps, separators and repeats too, after what [`safe`] has done; whether anything changed.
pub(super) fn aggressive(pieces: &mut [Piece<'_>], mut done: Done) -> bool {
    let before = pieces.to_vec();
    for round in 0..ROUNDS {
        if !once(pieces.get_mut(..done.reach).unwrap_or_default()) {
            return round > 0;
        }
        done = safe(pieces);
    }
    pieces.clone_from_slice(&before);
    false
}

fn once(pieces: &mut [Piece<'_>]) -> bool {
    let mut changed = has_tags(pieces) && strike(pieces, repeated_documents);
    changed |= length(pieces) >= 2 * PASSAGE && strike(pieces, repeated_passages);
    for rewrite in [squeeze, without_repeated_lines] {
        for piece in &mut *pieces {
            let Piece::Text { text, .. } = &*piece else { continue };
            if let Some(new) = rewrite(text) {
                piece.replace(new);
                changed = true;
            }
        }
    }
    changed
}

fn texts<'p>(pieces: &'p [Piece<'_>]) -> impl Iterator<Item = &'p str> {
    pieces.iter().filter_map(|piece| if let Piece::Text { text, .. } = piece { Some(&**text) } else { None })
}

fn has_tags(pieces: &[Piece<'_>]) -> bool {
    texts(pieces).any(|text| text.contains("</"))
}

fn length(pieces: &[Piece<'_>]) -> usize {
    texts(pieces).map(str::len).sum()
}

/// Leaves out the lines that this finds; a part of which nothing is left goes, unless something hangs on it.
fn strike(pieces: &mut [Piece<'_>], find: fn(&[Option<Page<'_>>]) -> Vec<Strike>) -> bool {
    let pages: Vec<_> = pieces.iter().map(page).collect();
    let strikes = find(&pages);
    let mut rest = strikes.as_slice();
    let mut changed = Vec::new();
    for (part, page) in pages.iter().enumerate() {
        let (own, others) = rest.split_at(rest.partition_point(|strike| strike.part <= part));
        rest = others;
        if let (Some(page), false) = (page, own.is_empty()) {
            changed.push((part, page.without(own)));
        }
    }
    let mut any = false;
    for (part, text) in changed {
        let Some(piece) = pieces.get_mut(part) else { continue };
        match piece {
            Piece::Text { bound: true, .. } if text.trim().is_empty() => continue,
            _ if text.trim().is_empty() => *piece = Piece::Gone,
            _ => piece.replace(text),
        }
        any = true;
    }
    any
}

fn page<'p>(piece: &'p Piece<'_>) -> Option<Page<'p>> {
    match piece {
        Piece::Text { text, .. } => Some(Page::of(text)),
        Piece::Media => None,
        Piece::Gone => Some(Page::of("")),
    }
}
