//! The JSON of a call: its arguments alone, or an object with the name and the arguments.

use serde_json::{Map, Value};

use super::happening::{Begins, Happening, Look, Next};
use super::json::{Follow, Taken, Unescape, is_space, push_escaped};
use crate::limits;

/// Follows arguments: an object, the text of one in a string, or `null`.
#[derive(Clone, Debug)]
pub(super) struct Arguments {
    follow: Follow,
    form: Form,
    /// A string or `null`, which is looked at when it is whole.
    whole: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Unknown,
    Object,
    Whole,
}

impl Arguments {
    pub fn new() -> Arguments {
        Arguments {
            follow: Follow::new(),
            form: Form::Unknown,
            whole: String::new(),
        }
    }

    /// Takes a character, and appends to `out` what it adds to the text of the object.
    pub fn take(&mut self, c: char, out: &mut String) -> Taken {
        if self.form == Form::Unknown {
            self.form = match c {
                c if is_space(c) => return Taken::Inside,
                '{' => Form::Object,
                '"' | 'n' => Form::Whole,
                _ => return Taken::Bad,
            };
        }
        let in_text = self.follow.in_text();
        let taken = self.follow.take(c);
        let text = match self.form {
            Form::Whole => &mut self.whole,
            _ => &mut *out,
        };
        push_escaped(c, in_text, text);
        if taken == Taken::Last && self.form == Form::Whole {
            return match object_in(&self.whole) {
                Some(object) => {
                    out.push_str(&object);
                    Taken::Last
                }
                None => Taken::Bad,
            };
        }
        taken
    }
}

impl Arguments {
    /// Takes characters up to the last one of the arguments: how many bytes, and what the last one taken was.
    pub fn take_all(&mut self, text: &str, out: &mut String) -> (usize, Taken) {
        for (at, c) in text.char_indices() {
            match self.take(c, out) {
                Taken::Inside => {}
                Taken::Last => return (at + c.len_utf8(), Taken::Last),
                other => return (at, other),
            }
        }
        (text.len(), Taken::Inside)
    }
}

/// The text of the object that a JSON string holds; `null` and an empty text are an empty one.
fn object_in(json: &str) -> Option<String> {
    match serde_json::from_str(json).ok()? {
        Value::Null => Some("{}".to_owned()),
        Value::String(text) if text.trim().is_empty() => Some("{}".to_owned()),
        Value::String(text) => is_object(&text).then(|| text.trim().to_owned()),
        _ => None,
    }
}

/// Whether a text is a JSON object.
pub(super) fn is_object(text: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(text).is_ok()
}

/// The keys of an object that is a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub name: &'static str,
    /// The first is the family's own.
    pub arguments: &'static [&'static str],
    /// Objects in which the call may stand.
    pub inside: &'static [&'static str],
    /// A string that is the answer itself, in place of a call.
    pub answer: Option<&'static str>,
    /// How the family writes several.
    pub written: Written,
}

/// How several objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Each on its line, between an opening and a closing of its own.
    Lines,
    /// As a list on one line.
    List,
    /// As a list, each on its line.
    Block,
}

/// Follows an object that is a call.
#[derive(Clone, Debug)]
pub(super) struct CallObject {
    keys: &'static Keys,
    at: At,
    /// Objects that are open.
    depth: usize,
    key: String,
    value: String,
    follow: Follow,
    arguments: Arguments,
    unescape: Unescape,
    name: Option<String>,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Open,
    /// The bool: or the end of the object.
    Key(bool),
    InKey,
    Colon,
    Value,
    InValue(Which),
    Behind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    Name,
    Arguments,
    Answer,
    Other,
}

impl CallObject {
    pub fn new(keys: &'static Keys) -> CallObject {
        CallObject {
            keys,
            at: At::Open,
            depth: 0,
            key: String::new(),
            value: String::new(),
            follow: Follow::new(),
            arguments: Arguments::new(),
            unescape: Unescape::default(),
            name: None,
            early: String::new(),
            has_arguments: false,
            answered: false,
        }
    }

    /// Takes a character. The last one ends a call that has a name, or an answer.
    pub fn take(&mut self, c: char, out: &mut Vec<Happening>) -> Taken {
        match (self.at, c) {
            (At::InKey, _) => self.in_key(c),
            (At::InValue(which), _) => self.in_value(which, c, out),
            (_, c) if is_space(c) => Taken::Inside,
            (At::Open, '{') => self.open(),
            (At::Key(_), '"') => {
                self.key.clear();
                self.key.push('"');
                self.follow = Follow::new();
                self.follow.take(c);
                self.go(At::InKey)
            }
            (At::Key(true) | At::Behind, '}') => self.close(out),
            (At::Colon, ':') => self.go(At::Value),
            (At::Behind, ',') => self.go(At::Key(false)),
            (At::Value, c) => self.begin_value(c, out),
            _ => Taken::Bad,
        }
    }

    /// Whether an answer has begun, and no call.
    pub fn is_answer(&self) -> bool {
        self.answered && self.name.is_none()
    }

    fn go(&mut self, at: At) -> Taken {
        self.at = at;
        Taken::Inside
    }

    fn open(&mut self) -> Taken {
        self.depth += 1;
        match self.depth > limits::MAX_JSON_DEPTH {
            true => Taken::Bad,
            false => self.go(At::Key(true)),
        }
    }

    fn in_key(&mut self, c: char) -> Taken {
        self.key.push(c);
        match self.follow.take(c) {
            Taken::Inside if self.key.len() <= limits::MAX_TOOL_NAME => Taken::Inside,
            Taken::Last => match serde_json::from_str(&self.key) {
                Ok(key) => {
                    self.key = key;
                    self.go(At::Colon)
                }
                Err(_) => Taken::Bad,
            },
            _ => Taken::Bad,
        }
    }

    fn begin_value(&mut self, c: char, out: &mut Vec<Happening>) -> Taken {
        let key = self.key.as_str();
        if c == '{' && self.keys.inside.contains(&key) {
            return self.open();
        }
        let which = match key {
            k if k == self.keys.name && self.name.is_none() => Which::Name,
            k if self.keys.arguments.contains(&k) && !self.has_arguments => Which::Arguments,
            k if Some(k) == self.keys.answer && c == '"' && !self.answered => Which::Answer,
            _ => Which::Other,
        };
        self.value.clear();
        self.follow = Follow::new();
        self.at = At::InValue(which);
        self.in_value(which, c, out)
    }

    fn in_value(&mut self, which: Which, c: char, out: &mut Vec<Happening>) -> Taken {
        let first = !self.follow.in_text();
        let taken = match which {
            Which::Arguments => {
                let mut text = String::new();
                let taken = self.arguments.take(c, &mut text);
                self.more(text, out);
                taken
            }
            _ => self.follow.take(c),
        };
        match (which, taken) {
            (_, Taken::Bad) => return Taken::Bad,
            (Which::Name, _) => {
                self.value.push(c);
                if self.value.len() > 8 * limits::MAX_TOOL_NAME {
                    return Taken::Bad;
                }
            }
            (Which::Answer, Taken::Inside) if !first => {
                let mut text = String::new();
                self.unescape.take(c, &mut text);
                self.answered = true;
                if !text.is_empty() {
                    out.push(Happening::Content(text));
                }
            }
            _ => {}
        }
        match taken {
            Taken::Last => self.ended(which, out),
            Taken::Past => {
                self.at = At::Behind;
                self.take(c, out)
            }
            taken => taken,
        }
    }

    fn ended(&mut self, which: Which, out: &mut Vec<Happening>) -> Taken {
        self.at = At::Behind;
        match which {
            Which::Name => match serde_json::from_str::<String>(&self.value) {
                Ok(name) => {
                    out.push(Happening::Name(name.clone()));
                    self.name = Some(name);
                    let early = std::mem::take(&mut self.early);
                    self.more(early, out);
                }
                Err(_) => return Taken::Bad,
            },
            Which::Arguments => self.has_arguments = true,
            Which::Answer => self.answered = true,
            Which::Other => {}
        }
        Taken::Inside
    }

    fn more(&mut self, text: String, out: &mut Vec<Happening>) {
        match &self.name {
            _ if text.is_empty() => {}
            Some(_) => out.push(Happening::Arguments(text)),
            None => self.early.push_str(&text),
        }
    }

    fn close(&mut self, out: &mut Vec<Happening>) -> Taken {
        self.depth -= 1;
        if self.depth > 0 {
            return self.go(At::Behind);
        }
        match (&self.name, self.answered) {
            (Some(_), _) => {
                if !self.has_arguments {
                    out.push(Happening::Arguments("{}".to_owned()));
                }
                Taken::Last
            }
            (None, true) => Taken::Last,
            (None, false) => Taken::Bad,
        }
    }
}

/// Whether calls stand alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind an opening, in a list or one after the other.
    Marked,
    /// Without an opening: the whole reply is one call.
    Whole,
}

/// Reads calls that are JSON objects, in a list or not, up to a closing text.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    keys: &'static Keys,
    place: Place,
    close: &'static str,
    at: Within,
    call: Box<CallObject>,
    calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Within {
    /// An object or the beginning of a list.
    Start,
    /// An object of a list; the bool: or its end.
    Element(bool),
    Call {
        list: bool,
    },
    /// Behind an object of a list.
    Comma,
    /// Behind a list or an object: perhaps one more of them.
    Close,
    /// Behind the call of a whole reply: nothing follows.
    Tail,
}

impl Objects {
    pub fn new(keys: &'static Keys, place: Place, close: &'static str) -> Objects {
        Objects {
            keys,
            place,
            close,
            at: Within::Start,
            call: Box::new(CallObject::new(keys)),
            calls: 0,
        }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether nothing has been taken.
    pub fn at_start(&self) -> bool {
        self.at == Within::Start
    }

    /// Takes what it can.
    pub fn step(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        if let Within::Call { list } = self.at {
            return self.call(list, look, out);
        }
        let (rest, spaces) = look.trimmed();
        let Some(c) = rest.text.chars().next() else {
            return match self.at {
                _ if !look.end => Next::Wait,
                Within::Tail => {
                    out.push(Happening::End);
                    Next::Over(spaces)
                }
                Within::Close if self.calls > 0 => Next::Over(spaces),
                _ => Next::Bad,
            };
        };
        match (self.at, c) {
            (Within::Start, '[') if self.place == Place::Marked => {
                self.at = Within::Element(true);
                Next::Took(spaces + 1)
            }
            (Within::Start, '{') => self.begin(false, spaces),
            (Within::Element(_), '{') => self.begin(true, spaces),
            (Within::Element(true) | Within::Comma, ']') => {
                self.at = Within::Close;
                Next::Took(spaces + 1)
            }
            (Within::Comma, ',') => {
                self.at = Within::Element(false);
                Next::Took(spaces + 1)
            }
            (Within::Close, _) => self.behind(rest, spaces),
            _ => Next::Bad,
        }
    }

    fn begin(&mut self, list: bool, spaces: usize) -> Next {
        *self.call = CallObject::new(self.keys);
        self.at = Within::Call { list };
        Next::Took(spaces)
    }

    fn call(&mut self, list: bool, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        for (at, c) in look.text.char_indices() {
            match self.call.take(c, out) {
                Taken::Inside => {}
                Taken::Last => return self.ended(list, at + c.len_utf8(), out),
                // An answer has been told already.
                _ if self.call.is_answer() => return Next::Over(at),
                Taken::Past | Taken::Bad => return Next::Bad,
            }
        }
        match look.text.len() {
            0 if look.end && self.call.is_answer() => Next::Over(0),
            0 => look.wait(),
            taken => Next::Took(taken),
        }
    }

    fn ended(&mut self, list: bool, taken: usize, out: &mut Vec<Happening>) -> Next {
        if self.call.name.is_none() {
            return Next::Over(taken);
        }
        self.calls += 1;
        self.at = match (self.place, list) {
            (Place::Whole, _) => Within::Tail,
            (_, true) => Within::Comma,
            (_, false) => Within::Close,
        };
        if self.place == Place::Marked {
            out.push(Happening::End);
        }
        Next::Took(taken)
    }

    fn behind(&mut self, rest: Look<'_>, spaces: usize) -> Next {
        match rest.begins(self.close) {
            Begins::Yes if self.calls == 0 => return Next::Bad,
            Begins::Yes => return Next::Over(spaces + self.close.len()),
            Begins::Perhaps => return Next::Wait,
            Begins::No => {}
        }
        // A closing that the model has left out, or one more call.
        if !self.close.is_empty() && rest.text.starts_with('{') {
            return self.begin(false, spaces);
        }
        match self.calls {
            0 => Next::Bad,
            _ => Next::Over(0),
        }
    }
}
