//! A text cut to what fits.

/// Stands where a text was cut.
pub(super) const MARK: &str = " […]";

/// The text, or as much of its beginning as fits, with a visible mark where it was cut. `None` when not even a word of
/// it fits.
pub(super) fn clip(text: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    if fits(text) {
        return Some(text.to_owned());
    }
    let cut = |end: usize| format!("{}{MARK}", &text[..end]);
    let boundary = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    // What fits grows with the length, all but for a token; whatever is returned was found to fit.
    let (mut best, mut too_long) = (0, text.len());
    loop {
        let mut middle = boundary(best + (too_long - best) / 2);
        if middle <= best {
            // One character is left to try, if any.
            middle = best + text[best..].chars().next().map_or(0, char::len_utf8);
        }
        if middle <= best || middle >= too_long {
            return (best > 0).then(|| cut(best));
        }
        if fits(&cut(middle)) {
            best = middle;
        } else {
            too_long = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_longest_beginning_that_fits() {
        let chars = |limit: usize| move |text: &str| text.chars().count() <= limit;
        assert_eq!(clip("short", chars(5)).unwrap(), "short");
        assert_eq!(clip("rather long", chars(10)).unwrap(), "rather […]");
        assert_eq!(clip("größenwahn", |text: &str| text.len() <= 9).unwrap(), "gr […]");
        assert_eq!(clip("ééa", |text: &str| text.len() <= 10).unwrap(), "ééa");
        assert_eq!(clip("éééa", |text: &str| text.len() <= 10 && text.len() > 7).unwrap(), "éé […]");
        assert_eq!(clip("长长长长长长", chars(5)).unwrap(), "长 […]");
        assert_eq!(clip("rather long", chars(4)), None);
        assert_eq!(clip("", chars(0)).unwrap(), "");
    }
}
