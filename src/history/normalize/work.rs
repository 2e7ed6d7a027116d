//! How much is read of a text, for the tests to see that it is in proportion to the text. Costs nothing elsewhere.

#[cfg(test)]
thread_local! {
    static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// So many bytes are read now: the lines of a text, what is hashed, what is compared.
#[inline]
pub(super) fn reads(bytes: usize) {
    #[cfg(test)]
    READ.set(READ.get() + bytes);
    let _ = bytes;
}

/// How many bytes this reads.
#[cfg(test)]
pub(super) fn read_by(work: impl FnOnce()) -> usize {
    let before = READ.get();
    work();
    READ.get() - before
}
