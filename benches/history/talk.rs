//! A conversation of plain English, the same on every machine.

use sluicegate::types::{Message, Role};

const WORDS: &str = "the of and to in is that it was for on are as with his they at be this from have or by one had not \
but what all were when we there can an your which their said if do will each about how up out them then she many some so \
these would other into has more her two like him see time could no make than first been its who now people my made over \
did down only way find use may water long little very after words called just where most know get through back much \
before go good new write our used me man too any day same right look think also around another came come work three word \
must because does part even place well such here take why things help put years different away again off went old number \
great tell men say small every found still between name should home big give air line set own under read last never us \
left end along while might next sound below saw something thought both few those always looked show large often together \
asked house world going want school important until form food keep children feet land side without boy once animals life \
enough took sometimes four head above kind began almost live page got earth need far hand high year mother light parts \
country father let night following picture being study second eyes soon times story boys since white days ever paper \
hard near sentence better best across during today others however sure means knew try told young miles sun ways thing \
whole hear example heard several change answer room sea against top turned learn point city play toward five using \
himself usually invoice refund delivery warranty subscription password account settings printer keyboard temperature \
configuration authentication deployment database transaction latency throughput";

/// Writes messages of about 155 tokens, from a seed.
pub(crate) struct Talk {
    words: Vec<&'static str>,
    random: fastrand::Rng,
}

impl Talk {
    pub(crate) fn new(seed: u64) -> Self {
        Self { words: WORDS.split_whitespace().collect(), random: fastrand::Rng::with_seed(seed) }
    }

    /// So many words, in sentences.
    pub(crate) fn words(&mut self, count: usize) -> String {
        let mut text = String::new();
        for at in 0..count {
            let word = self.words[self.random.usize(..self.words.len())];
            match at % 11 {
                0 => text.extend(word[..1].to_uppercase().chars().chain(word[1..].chars())),
                10 => text.extend([" ", word, ". "]),
                6 => text.extend([" ", word, ","]),
                _ => text.extend([" ", word]),
            }
        }
        text.trim_end().to_owned()
    }

    /// Instructions, then questions and answers in turn; so many messages in all.
    pub(crate) fn messages(&mut self, count: usize) -> Vec<Message> {
        let role = |at| match at {
            0 => Role::System,
            at if at % 2 == 1 => Role::User,
            _ => Role::Assistant,
        };
        (0..count)
            .map(|at| {
                let words = self.random.usize(60..186);
                Message::new(role(at), self.words(words))
            })
            .collect()
    }
}
