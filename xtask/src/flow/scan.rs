//! Reads the paths out of Rust source text: enough of the language for that, and no more.

/// Something the flow has a rule about, and its line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub line: usize,
    pub seen: Seen,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A path with its `self::` and `super::` resolved, e.g. [crate, http, head]
    Path(Vec<String>),
    Unsafe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Sep,
    Other(char),
}

struct Scanner<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    /// The module that the text at `at` is in.
    module: Vec<String>,
    /// For each open brace, whether it opened a `mod`.
    braces: Vec<bool>,
    found: Vec<Found>,
}

/// `module` is the module path of the file itself.
pub fn scan(source: &str, module: &[String]) -> Vec<Found> {
    let tokens = tokens(source);
    let mut scanner = Scanner {
        tokens: &tokens,
        at: 0,
        module: module.to_vec(),
        braces: Vec::new(),
        found: Vec::new(),
    };
    scanner.file();
    scanner.found
}

impl<'a> Scanner<'a> {
    fn file(&mut self) {
        while let Some((line, token)) = self.tokens.get(self.at) {
            let line = *line;
            if self.starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                self.skip_test_item();
                continue;
            }
            match token {
                Token::Other('{') => self.open(false),
                Token::Other('}') => self.close(),
                Token::Word(word) if word == "mod" => {
                    if let (Some(Token::Word(name)), Some(Token::Other('{'))) =
                        (self.peek(1), self.peek(2))
                    {
                        self.module.push(name.clone());
                        self.at += 2;
                        self.open(true);
                        continue;
                    }
                }
                Token::Word(word) if word == "unsafe" => {
                    self.found.push(Found { line, seen: Seen::Unsafe });
                }
                Token::Word(word) if word == "use" => {
                    self.at += 1;
                    self.leading_sep();
                    self.tree(&mut Vec::new());
                    continue;
                }
                Token::Word(_) if self.peek(1) == Some(&Token::Sep) => {
                    self.tree(&mut Vec::new());
                    continue;
                }
                // `.name::<T>()`, `<T as Trait>::name`: not the start of a path.
                Token::Other('.') | Token::Sep if matches!(self.peek(1), Some(Token::Word(_))) => {
                    self.at += 1;
                }
                Token::Word(_) | Token::Sep | Token::Other(_) => {}
            }
            self.at += 1;
        }
    }

    /// A path or use tree that starts here; leaves `at` behind it.
    fn tree(&mut self, prefix: &mut Vec<String>) {
        let length = prefix.len();
        let mut line = self.tokens.get(self.at).map_or(0, |(line, _)| *line);
        loop {
            match self.peek(0) {
                Some(Token::Word(word)) => {
                    prefix.push(word.clone());
                    line = self.tokens[self.at].0;
                    self.at += 1;
                }
                Some(Token::Other('{')) => {
                    self.at += 1;
                    self.group(prefix);
                    prefix.truncate(length);
                    return;
                }
                Some(Token::Other('*')) => self.at += 1,
                _ => break,
            }
            // `Vec::<T>` ends a path; so does everything that is not `::`.
            if self.peek(0) != Some(&Token::Sep) {
                break;
            }
            self.at += 1;
        }
        let path = self.resolve(prefix);
        prefix.truncate(length);
        if !path.is_empty() {
            self.found.push(Found { line, seen: Seen::Path(path) });
        }
    }

    fn group(&mut self, prefix: &mut Vec<String>) {
        while let Some(token) = self.peek(0) {
            match token {
                Token::Other('}') => {
                    self.at += 1;
                    return;
                }
                // `name as other`
                Token::Word(word) if word == "as" => self.at += 2,
                Token::Word(_) | Token::Other('{' | '*') => self.tree(prefix),
                Token::Sep | Token::Other(_) => self.at += 1,
            }
        }
    }

    fn leading_sep(&mut self) {
        if self.peek(0) == Some(&Token::Sep) {
            self.at += 1;
        }
    }

    fn resolve(&self, path: &[String]) -> Vec<String> {
        let mut base: Option<Vec<String>> = None;
        let mut rest = path;
        while let Some((first, tail)) = rest.split_first() {
            match first.as_str() {
                "self" => {
                    base.get_or_insert_with(|| self.module.clone());
                }
                "super" => {
                    base.get_or_insert_with(|| self.module.clone()).pop();
                }
                _ => break,
            }
            rest = tail;
        }
        match base {
            Some(module) => [&["crate".to_owned()], &module[..], rest].concat(),
            None => rest.to_vec(),
        }
    }

    /// `#[cfg(test)] mod tests { ... }`, or another item up to its `;` or closing brace.
    fn skip_test_item(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.peek(0) {
            self.at += 1;
            match token {
                Token::Other('{') => depth += 1,
                Token::Other('}') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return;
                    }
                }
                Token::Other(';') if depth == 0 => return,
                Token::Word(_) | Token::Sep | Token::Other(_) => {}
            }
        }
    }

    fn open(&mut self, is_mod: bool) {
        self.braces.push(is_mod);
        if is_mod {
            self.at += 1;
        }
    }

    fn close(&mut self) {
        if self.braces.pop() == Some(true) {
            self.module.pop();
        }
    }

    fn peek(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }

    fn starts_with(&self, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(i, text)| match self.peek(i) {
            Some(Token::Word(word)) => word == text,
            Some(Token::Other(c)) => text.chars().eq([*c]),
            Some(Token::Sep) | None => false,
        })
    }
}

/// Words, `::` and single other characters; comments, strings and characters are left out.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let rest = &text[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => string(rest),
            ['b' | 'c', '"', ..] => 1 + string(&rest[1..]),
            ['r' | 'b' | 'c', ..] if raw_string(rest).is_some() => raw_string(rest).unwrap_or(1),
            ['b', '\'', ..] => 1 + character(&rest[1..]),
            ['\'', ..] => character(rest),
            [':', ':', ..] => {
                tokens.push((line, Token::Sep));
                2
            }
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let word: String =
                    rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
                let length = word.chars().count();
                tokens.push((line, Token::Word(word)));
                length
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    tokens.push((line, Token::Other(*c)));
                }
                1
            }
            [] => break,
        };
        line += rest.iter().take(length).filter(|c| **c == '\n').count();
        at += length;
    }
    tokens
}

fn block_comment(text: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match &text[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string(text: &[char]) -> usize {
    let mut at = 1;
    while let Some(c) = text.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// `r"..."`, `br#"..."#`: its length, if it is one.
fn raw_string(text: &[char]) -> Option<usize> {
    let r = text.iter().position(|c| *c == 'r').filter(|at| *at <= 1)?;
    let hashes = text[r + 1..].iter().take_while(|c| **c == '#').count();
    let start = r + 1 + hashes;
    if text.get(start) != Some(&'"') {
        return None;
    }
    let end = (start + 1..text.len()).find(|at| {
        text[*at] == '"' && text[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    });
    Some(end.map_or(text.len(), |end| end + 1 + hashes))
}

/// A character literal, or only the quote of a lifetime.
fn character(text: &[char]) -> usize {
    match text {
        ['\'', '\\', _, rest @ ..] => {
            3 + rest.iter().position(|c| *c == '\'').map_or(0, |end| end + 1)
        }
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}
