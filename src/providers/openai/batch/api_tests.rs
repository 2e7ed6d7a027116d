//! Long lines are read on another thread, and in their order.

use super::super::super::client::tests::held_up;
use super::*;

#[test]
fn a_long_line_of_results() {
    let client = OpenAi::builder("http://gateway.example/v1").build().unwrap();
    let api = Api { client, env: Env::new() };
    for (bytes, waits) in [(1_000, false), (1 << 20, true)] {
        let (short, long) = ("a".to_owned(), "b".repeat(bytes));
        let file = format!("{short}\n\n{long}\r\n \n{short}{short}");
        let read = Arc::new(|line: &[u8]| (line[0], line.trim_ascii().len()));
        let response = axum::http::Response::new(file).into();
        let (lines, waited) = held_up(api.split(response, &read));
        assert_eq!((lines, waited), (vec![(b'a', 1), (b'b', bytes), (b'a', 2)], waits));
    }
}
