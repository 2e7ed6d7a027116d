//! What must not be touched: code, quotes, data, tables.

use super::fence::Fence;
use super::json::Json;
use super::lines::{after_marker, indent, is_blank};
use super::span::Span;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing but blanks, between paragraphs.
    Blank,
    /// Words.
    Prose,
    /// Part of a region that stays as it is.
    Kept,
    /// The same, indented code: blank lines between two such lines belong to it.
    Code,
}

impl Kind {
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Self::Kept | Self::Code)
    }
}

/// Elements whose white space counts, or whose text is not prose.
const VERBATIM: [&str; 5] = ["pre", "code", "script", "style", "textarea"];

/// A region that goes on until something closes it.
#[derive(Debug, Clone, Copy)]
enum Region {
    Fence(Fence),
    Json(Json),
    Element(&'static str),
}

/// Tells line by line what stays as it is. In doubt it does.
#[derive(Debug, Default)]
pub(super) struct Regions {
    open: Option<Region>,
    span: Span,
    /// In a block quote, or in the lines right after it, which may belong to it.
    quoted: bool,
    /// In a table whose cells tabs part: where a cell is empty, a line may end with them.
    tabbed: bool,
    /// What the line before was; nothing at the start of the text.
    before: Option<Kind>,
}

impl Regions {
    /// Whether a region is open that ends with the text.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What the next line is.
    pub(super) fn kind(&mut self, line: &str) -> Kind {
        let kind = self.next(line);
        if kind == Kind::Blank {
            self.span = Span::default();
            (self.quoted, self.tabbed) = (false, false);
        }
        self.before = Some(kind);
        kind
    }

    fn next(&mut self, line: &str) -> Kind {
        if let Some(region) = self.open {
            self.open = match region {
                Region::Fence(fence) => fence.after(line).map(Region::Fence),
                Region::Json(json) => json.after(line).map(Region::Json),
                Region::Element(name) => (!closes(line, name)).then_some(region),
            };
            return Kind::Kept;
        }
        if is_blank(line) {
            return Kind::Blank;
        }
        if let Some(fence) = Fence::open(line) {
            self.open = Some(Region::Fence(fence));
            return Kind::Kept;
        }
        let (column, rest) = indent(line);
        // Right after prose such a line goes on with it.
        if column >= 4 && self.before != Some(Kind::Prose) {
            return Kind::Code;
        }
        if let Some(json) = Json::open(rest) {
            self.open = json.after(line).map(Region::Json);
            return Kind::Kept;
        }
        if let Some(name) = verbatim(rest) {
            self.open = (!closes(rest, name)).then_some(Region::Element(name));
            return Kind::Kept;
        }
        self.quoted |= item(rest).starts_with('>');
        self.tabbed |= rest.trim_end_matches([' ', '\t']).contains('\t');
        let row = is_row(line) || self.tabbed && rest.contains('\t');
        let within = self.span.is_open();
        self.span = self.span.after(line);
        if self.quoted || within || self.span.is_open() || row { Kind::Kept } else { Kind::Prose }
    }
}

/// What a line says after the markers of list items.
fn item(mut rest: &str) -> &str {
    while let Some(after) = after_marker(rest) {
        rest = after.trim_start_matches([' ', '\t']);
    }
    rest
}

/// A row of a table, or a line drawn with boxes.
fn is_row(line: &str) -> bool {
    let boxed =
        |at: usize| line.get(at..).is_some_and(|rest| rest.starts_with(|c| matches!(c, '\u{2500}'..='\u{257f}')));
    // All box-drawing characters begin with this byte.
    memchr::memchr(b'|', line.as_bytes()).is_some()
        || memchr::memchr_iter(0xe2, line.as_bytes()).any(boxed)
        || line.contains('\u{ff5c}')
}

/// The verbatim element that a line opens.
fn verbatim(line: &str) -> Option<&'static str> {
    let line = line.strip_prefix('<')?;
    VERBATIM.into_iter().find(|name| {
        let (Some(start), rest) = (line.get(..name.len()), line.as_bytes().get(name.len())) else { return false };
        start.eq_ignore_ascii_case(name) && matches!(rest, None | Some(b'>' | b' ' | b'\t'))
    })
}

/// Whether a line holds the closing tag of this element.
fn closes(line: &str, name: &str) -> bool {
    memchr::memmem::find_iter(line.as_bytes(), b"</").any(|at| {
        let (tag, rest) = line.as_bytes()[at + 2..].split_at_checked(name.len()).unwrap_or_default();
        tag.eq_ignore_ascii_case(name.as_bytes()) && matches!(rest.first(), None | Some(b'>' | b' ' | b'\t'))
    })
}
