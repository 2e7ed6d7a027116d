//! Which vector of an answer belongs to which input, and what share of it.

use super::{EmbedItem, Embedding};

/// The vectors by the index each of them states; `None` when they are not exactly one for each of so many inputs. The
/// order they came in says nothing: some endpoints answer in another one.
pub(crate) fn by_index(data: &[Embedding], inputs: usize) -> Option<Vec<usize>> {
    if data.len() != inputs {
        return None;
    }
    let mut places = vec![usize::MAX; inputs];
    for (place, embedding) in data.iter().enumerate() {
        let seat = places.get_mut(embedding.index).filter(|seat| **seat == usize::MAX)?;
        *seat = place;
    }
    Some(places)
}

/// How long an input is: bytes of text, or tokens; an empty one counts as one.
pub(crate) fn length(item: EmbedItem<'_>) -> u64 {
    let length = match item {
        EmbedItem::Text(text) => text.len(),
        EmbedItem::Tokens(tokens) => tokens.len(),
    };
    length.max(1) as u64
}

/// Divides an amount in proportion; the parts add up to the whole.
pub(crate) fn divide(amount: u64, weights: &[u64]) -> Vec<u64> {
    let total = weights.iter().fold(0_u64, |total, weight| total.saturating_add(*weight));
    let (mut passed, mut given) = (0_u64, 0_u64);
    weights
        .iter()
        .map(|weight| {
            passed = passed.saturating_add(*weight);
            // At most the amount itself.
            let until = (u128::from(amount) * u128::from(passed) / u128::from(total.max(1))) as u64;
            let part = until - given;
            given = until;
            part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Extra, Vector};

    #[test]
    fn vectors_are_taken_by_index_and_never_by_order() {
        let with = |indices: &[usize]| -> Vec<Embedding> {
            let one = |index| Embedding { index, embedding: Vector::Floats(vec![]), extra: Extra::new() };
            indices.iter().map(|index| one(*index)).collect()
        };
        assert_eq!(by_index(&with(&[2, 0, 1]), 3), Some(vec![1, 2, 0]));
        for wrong in [&[0, 1][..], &[0, 1, 2, 3], &[0, 1, 1], &[0, 0, 0], &[1, 2, 3], &[0, 1, usize::MAX]] {
            assert_eq!(by_index(&with(wrong), 3), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_parts_add_up_to_the_whole() {
        assert_eq!(divide(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(divide(7, &[1, 999, 0]), [0, 7, 0]);
        assert_eq!(divide(u64::MAX, &[u64::MAX, u64::MAX]).iter().sum::<u64>(), u64::MAX);
        assert_eq!((divide(5, &[]), divide(0, &[3])), (vec![], vec![0]));
    }
}
