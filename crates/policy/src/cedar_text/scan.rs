//! How deep a text nests, found without parsing it.
//!
//! One pass over the tokens of a policy, linear and without recursion, so it is safe for any
//! text. It finds an upper bound of the expression's height: each bracket, `if`, operator, access
//! and call counts as a level. A chain of `||` or `&&` counts as its logarithm, because
//! [`super::balance`] makes a balanced tree of it. What is bounded here suffices for the parser;
//! the exact height is measured after parsing.

use super::PolicyError;

/// The levels to which an expression may nest, counted after chains are balanced.
///
/// Gates evaluate on the 2 MiB stack of a worker thread; tests there hold this bound.
pub const MAX_DEPTH: usize = 100;

/// The most terms of `||` and `&&`, and `when` and `unless` clauses, of one policy.
pub const MAX_TERMS: usize = 20_000;

/// The most tokens of one policy or schema: what they take in memory while they are parsed.
pub const MAX_TOKENS: usize = 250_000;

/// The scan counts `a.b == c.d` as three levels, where there are two. Beyond this many times
/// [`MAX_DEPTH`] nothing is parsed to find out.
const ESTIMATE: usize = 8;

/// Below these a policy is parsed on the stack of the caller, and its chains stay as they are.
const SMALL_NESTING: usize = 8;
const SMALL_HEIGHT: usize = 48;
const SMALL_TOKENS: usize = 20_000;

/// What a scan finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Brackets and `if`s within each other.
    pub(super) nesting: usize,
    /// An upper bound of the height once chains are balanced.
    pub(super) height: usize,
    /// An upper bound of the height as it is parsed.
    flat: usize,
    pub(super) tokens: usize,
}

impl Scan {
    /// Whether the caller's stack suffices.
    pub(super) fn is_small(&self) -> bool {
        self.nesting <= SMALL_NESTING && self.flat <= SMALL_HEIGHT && self.tokens <= SMALL_TOKENS
    }
}

/// Scans a policy or template.
pub(crate) fn policy(text: &str) -> Result<Scan, PolicyError> {
    let mut scan = Scan::default();
    let mut open = vec![Level::default()];
    let mut terms = 0;
    let mut before = Token { offset: 0, kind: Kind::Other };
    for token in Tokens::of(text) {
        scan.tokens += 1;
        if scan.tokens > MAX_TOKENS {
            let message = format!("it has more than {MAX_TOKENS} tokens; divide the policy");
            return Err(PolicyError::beyond(text, token.offset, message));
        }
        let depth = open.len();
        let Some(level) = open.last_mut() else { break };
        let mut nesting = 0;
        match token.kind {
            Kind::Open => {
                let within = level.within + level.ifs + 1;
                // The braces of a clause and the brackets of the scope are no level.
                nesting = within.saturating_sub(1);
                // A call is a level of its own.
                level.run += 1;
                open.push(Level { within, ..Level::default() });
            }
            Kind::Close if depth > 1 => {
                level.end_element();
                let (height, flat) = (level.height, level.flat);
                open.pop();
                let Some(outer) = open.last_mut() else { break };
                outer.inner = outer.inner.max(height + 1);
                outer.inner_flat = outer.inner_flat.max(flat + 1);
                // `} unless {`: clauses are joined by `&&`.
                if depth == 2 {
                    outer.end_operand();
                    outer.terms += 1;
                    terms += 1;
                }
            }
            Kind::Close => {}
            Kind::Chain => {
                level.end_operand();
                level.terms += 1;
                terms += 1;
            }
            Kind::Separator => {
                // `{if: 1}`: a name, no branch.
                if before.kind == Kind::If {
                    level.ifs = level.ifs.saturating_sub(1);
                }
                level.end_element();
            }
            Kind::If if matches!(before.kind, Kind::Dot | Kind::Has) => {}
            Kind::If => {
                level.ifs += 1;
                nesting = level.within + level.ifs;
            }
            Kind::Dot | Kind::Operator | Kind::Has => level.run += 1,
            Kind::Other => {}
        }
        if terms > MAX_TERMS {
            let message = format!(
                "it has more than {MAX_TERMS} terms of `||`, `&&` and clauses; divide the policy"
            );
            return Err(PolicyError::beyond(text, token.offset, message));
        }
        scan.nesting = scan.nesting.max(nesting);
        let run = open.last().map_or(0, |level| level.run + level.ifs);
        if scan.nesting > MAX_DEPTH || run > ESTIMATE * MAX_DEPTH {
            return Err(PolicyError::too_deep(text, Some(token.offset)));
        }
        before = token;
    }
    // Brackets that are not closed are an error of the parser's; here they must only be counted.
    while open.len() > 1 {
        if let Some(mut level) = open.pop() {
            level.end_element();
            if let Some(outer) = open.last_mut() {
                outer.inner = outer.inner.max(level.height + 1);
                outer.inner_flat = outer.inner_flat.max(level.flat + 1);
            }
        }
    }
    if let Some(mut level) = open.pop() {
        level.end_element();
        (scan.height, scan.flat) = (level.height, level.flat);
    }
    if scan.height > ESTIMATE * MAX_DEPTH {
        return Err(PolicyError::too_deep(text, None));
    }
    Ok(scan)
}

/// Scans a schema: brackets and the `<` of `Set<..>` nest, and members of a record are counted,
/// because Cedar's parser takes time by their square.
pub(crate) fn schema(text: &str) -> Result<(), PolicyError> {
    let mut members = vec![0_usize];
    for (count, token) in Tokens::of(text).enumerate() {
        let beyond = |message: String| Err(PolicyError::beyond(text, token.offset, message));
        if count >= MAX_TOKENS {
            return beyond(format!("it has more than {MAX_TOKENS} tokens; divide the schema"));
        }
        match text.as_bytes().get(token.offset) {
            Some(b'{' | b'[' | b'(' | b'<') => members.push(0),
            Some(b'}' | b']' | b')' | b'>') if members.len() > 1 => {
                members.pop();
            }
            Some(b',') => {
                if let Some(members) = members.last_mut() {
                    *members += 1;
                    if *members >= super::schema::MAX_MEMBERS {
                        return beyond(format!(
                            "a list or record has more than {} members; divide it",
                            super::schema::MAX_MEMBERS
                        ));
                    }
                }
            }
            _ => {}
        }
        if members.len() > MAX_DEPTH + 1 {
            return Err(PolicyError::too_deep(text, Some(token.offset)));
        }
    }
    Ok(())
}

/// One pair of brackets, or the whole text.
#[derive(Default)]
struct Level {
    /// Brackets and `if`s around it.
    within: usize,
    /// `if`s whose branches reach to the end of this element.
    ifs: usize,
    /// Operators, accesses and calls since the last `||`, `&&` or separator.
    run: usize,
    /// The highest bracket since then.
    inner: usize,
    inner_flat: usize,
    /// The highest operand of this element, and how many there are.
    operand: usize,
    operand_flat: usize,
    terms: usize,
    /// The highest element.
    height: usize,
    flat: usize,
}

impl Level {
    fn end_operand(&mut self) {
        self.operand = self.operand.max(self.run + self.inner);
        self.operand_flat = self.operand_flat.max(self.run + self.inner_flat);
        (self.run, self.inner, self.inner_flat) = (0, 0, 0);
    }

    fn end_element(&mut self) {
        self.end_operand();
        // A tree of `||` over trees of `&&`.
        let chain = match self.terms {
            0 => 0,
            terms => 2 * (terms + 1).ilog2() as usize + 2,
        };
        self.height = self.height.max(self.operand + chain + self.ifs);
        self.flat = self.flat.max(self.operand_flat + self.terms + self.ifs);
        (self.ifs, self.operand, self.operand_flat, self.terms) = (0, 0, 0, 0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Close,
    /// `||`, `&&`.
    Chain,
    /// `,`, `:`, `;`.
    Separator,
    If,
    Has,
    Dot,
    Operator,
    Other,
}

#[derive(Clone, Copy)]
struct Token {
    offset: usize,
    kind: Kind,
}

/// The tokens of Cedar's policies and schemas, as far as they matter here.
struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(text: &'a str) -> Tokens<'a> {
        Tokens { bytes: text.as_bytes(), at: 0 }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, fits: impl Fn(u8) -> bool) {
        while self.byte(0).is_some_and(&fits) {
            self.at += 1;
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace());
            if self.byte(0) == Some(b'/') && self.byte(1) == Some(b'/') {
                self.skip_while(|byte| byte != b'\n' && byte != b'\r');
            } else {
                break;
            }
        }
        let offset = self.at;
        let first = self.byte(0)?;
        self.at += 1;
        let kind = match (first, self.byte(0)) {
            (b'"', _) => {
                while let Some(byte) = self.byte(0).filter(|byte| *byte != b'"') {
                    self.at += if byte == b'\\' { 2 } else { 1 };
                }
                self.at += 1;
                Kind::Other
            }
            (b'|', Some(b'|')) | (b'&', Some(b'&')) => {
                self.at += 1;
                Kind::Chain
            }
            (b':', Some(b':')) => {
                self.at += 1;
                Kind::Other
            }
            (b'=' | b'!' | b'<' | b'>', Some(b'=')) => {
                self.at += 1;
                Kind::Operator
            }
            (b'(' | b'[' | b'{', _) => Kind::Open,
            (b')' | b']' | b'}', _) => Kind::Close,
            (b',' | b':' | b';', _) => Kind::Separator,
            (b'.', _) => Kind::Dot,
            (b'!' | b'<' | b'>' | b'=' | b'+' | b'-' | b'*' | b'/' | b'%', _) => Kind::Operator,
            _ if is_word(first) => {
                self.skip_while(is_word);
                match self.bytes.get(offset..self.at) {
                    Some(b"if") => Kind::If,
                    Some(b"has") => Kind::Has,
                    Some(b"in" | b"is" | b"like") => Kind::Operator,
                    _ => Kind::Other,
                }
            }
            _ => Kind::Other,
        };
        Some(Token { offset, kind })
    }
}

/// Outside of strings and comments Cedar has ASCII only, save white space.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
