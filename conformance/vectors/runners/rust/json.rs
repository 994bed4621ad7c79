//! As much of JSON as the vectors need.
use std::fmt;
use Json::*;

#[derive(Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn read(file: &str) -> Result<Json, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        Reader { text: text.as_bytes(), at: 0 }.value().ok_or(format!("{file}: not JSON"))
    }

    /// The field of an object; null if there is none.
    pub fn get(&self, name: &str) -> &Json {
        self.fields().iter().find(|(key, _)| key == name).map_or(&Null, |(_, value)| value)
    }

    pub fn fields(&self) -> &[(String, Json)] {
        if let Object(fields) = self {
            fields
        } else {
            &[]
        }
    }

    pub fn list(&self) -> &[Json] {
        if let List(values) = self {
            values
        } else {
            &[]
        }
    }

    pub fn text(&self) -> &str {
        if let Text(text) = self {
            text
        } else {
            ""
        }
    }

    pub fn number(&self) -> Option<f64> {
        if let Number(number) = self {
            Some(*number)
        } else {
            None
        }
    }

    pub fn integer(&self) -> usize {
        self.number().unwrap_or(0.0) as usize
    }

    pub fn integers(&self) -> Vec<usize> {
        self.list().iter().map(Json::integer).collect()
    }
}

/// Writes JSON. A number that JSON does not have is null.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let pair = |(key, value): &(String, Json)| format!("{}: {value}", Text(key.clone()));
        match self {
            Number(number) if number.is_finite() => write!(f, "{number}"),
            Null | Number(_) => write!(f, "null"),
            Bool(value) => write!(f, "{value}"),
            Text(text) => write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            List(values) => {
                let values: Vec<String> = values.iter().map(Json::to_string).collect();
                write!(f, "[{}]", values.join(", "))
            }
            Object(fields) => {
                let fields: Vec<String> = fields.iter().map(pair).collect();
                write!(f, "{{{}}}", fields.join(",\n"))
            }
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        self.at += 1;
        self.text.get(self.at - 1).copied()
    }

    /// Passes over blanks, and returns what comes next.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn value(&mut self) -> Option<Json> {
        match self.peek()? {
            b'{' => self
                .several(b'}', |reader| {
                    reader.peek()?;
                    let name = reader.string()?;
                    (reader.peek()? == b':').then(|| reader.at += 1)?;
                    Some((name, reader.value()?))
                })
                .map(Object),
            b'[' => self.several(b']', Reader::value).map(List),
            b'"' => self.string().map(Text),
            _ => {
                let start = self.at;
                while self.text.get(self.at).is_some_and(|c| !b",]} \n".contains(c)) {
                    self.at += 1;
                }
                match std::str::from_utf8(&self.text[start..self.at]).ok()? {
                    "null" => Some(Null),
                    "true" => Some(Bool(true)),
                    "false" => Some(Bool(false)),
                    number => number.parse().ok().map(Number),
                }
            }
        }
    }

    /// Reads values with commas between them, up to the end of a list or an object.
    fn several<T>(&mut self, end: u8, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut found = Vec::new();
        self.next();
        if self.peek()? == end {
            self.next();
            return Some(found);
        }
        loop {
            found.push(read(self)?);
            self.peek();
            match self.next()? {
                b',' => continue,
                last => return (last == end).then_some(found),
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let mut units = Vec::new(); // UTF-16, as an escape is a unit of it
        (self.next()? == b'"').then_some(())?;
        loop {
            match self.next()? {
                b'"' => return Some(String::from_utf16_lossy(&units)),
                b'\\' => units.push(match self.next()? {
                    b'n' => 10,
                    b'r' => 13,
                    b't' => 9,
                    b'b' => 8,
                    b'f' => 12,
                    b'u' => {
                        self.at += 4;
                        let digits = self.text.get(self.at - 4..self.at)?;
                        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
                    }
                    other => other.into(),
                }),
                ascii => units.push(ascii.into()), // the files have no other bytes
            }
        }
    }
}
