//! Queries as text, from a seed, about what is in the data: names and literals are those of its spans.

use proto::otlp::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::data::{BASE, Row, SECOND};

/// What can be asked about.
pub struct Vocabulary {
    keys: Vec<Name>,
    intrinsics: Vec<Name>,
}

/// A name as a query writes it, and literals that its values are equal to.
#[derive(Clone)]
struct Name {
    text: String,
    literals: Vec<Literal>,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    /// Anything with an order, as written.
    Number(String),
    Text(String),
    /// Only equal or not: booleans, statuses, kinds.
    Word(String),
}

impl Literal {
    fn of_int(value: i64) -> Self {
        Self::Number(match value {
            i64::MIN => "minInt".into(),
            i64::MAX => "maxInt".into(),
            value => value.to_string(),
        })
    }

    fn of_duration(nanos: i64) -> Self {
        Self::Number(format!("{nanos}ns"))
    }

    fn add_any(value: &AnyValue, literals: &mut Vec<Self>) {
        match &value.value {
            Some(Any::StringValue(v)) => literals.push(Self::Text(v.clone())),
            Some(Any::IntValue(v)) => literals.push(Self::of_int(*v)),
            Some(Any::DoubleValue(v)) if v.is_finite() => literals.push(Self::Number(format!("{v:?}"))),
            Some(Any::BoolValue(v)) => literals.push(Self::Word(v.to_string())),
            Some(Any::ArrayValue(v)) => v.values.iter().for_each(|v| Self::add_any(v, literals)),
            _ => {}
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Number(text) | Self::Word(text) => text.clone(),
            Self::Text(text) => quoted(text),
        }
    }

    /// Another way to write the same literal.
    fn written_otherwise(&self, rng: &mut StdRng) -> String {
        match self {
            Self::Word(text) => text.clone(),
            Self::Number(text) => match text.strip_suffix("ns").and_then(|nanos| nanos.parse::<i64>().ok()) {
                Some(nanos) => duration_otherwise(nanos, rng),
                None => number_otherwise(text, rng),
            },
            Self::Text(text) if !text.contains(['`', '\r']) && rng.random_bool(0.5) => format!("`{text}`"),
            Self::Text(text) => escaped(text, rng),
        }
    }
}

/// `1500000000ns` as `1.5s`, `1500ms` and so on, where that is exact.
fn duration_otherwise(nanos: i64, rng: &mut StdRng) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let left = nanos.unsigned_abs();
    let units = [("us", 1_000), ("µs", 1_000), ("μs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
    let (unit, size) = units[rng.random_range(0..units.len())];
    if left % size == 0 && left > 0 {
        return format!("{sign}{}{unit}", left / size);
    }
    match rng.random_range(0..3) {
        // A fraction is exact to the nanosecond.
        0 if left < 1_000_000_000_000_000 => format!("{sign}{}.{:09}s", left / 1_000_000_000, left % 1_000_000_000),
        1 if left < 1_000_000_000 => format!("{sign}.{left:09}s"),
        _ => {
            let (seconds, rest) = (left / 1_000_000_000, left % 1_000_000_000);
            format!("{sign}{}h{}m{}s{rest}ns", seconds / 3_600, seconds / 60 % 60, seconds % 60)
        }
    }
}

/// The same whole number with zeros before it, the same float with an exponent or without needless digits.
fn number_otherwise(text: &str, rng: &mut StdRng) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    if digits.bytes().all(|c| c.is_ascii_digit()) {
        return format!("{sign}00{digits}");
    }
    match digits.parse::<f64>() {
        Ok(value) if rng.random_bool(0.5) => format!("{sign}{value:e}"),
        Ok(value) if value != 0.0 => format!("{sign}{value:E}"),
        _ => digits.strip_prefix("0.").map_or(text.to_owned(), |fraction| format!("{sign}.{fraction}")),
    }
}

/// Every character in one of the ways to escape it, or as it is.
fn escaped(text: &str, rng: &mut StdRng) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match rng.random_range(0..5) {
            0 if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            0 | 1 => out.push_str(&format!("\\U{:08x}", c as u32)),
            2 => c.to_string().bytes().for_each(|byte| out.push_str(&format!("\\x{byte:02x}"))),
            3 => c.to_string().bytes().for_each(|byte| out.push_str(&format!("\\{byte:03o}"))),
            _ => match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c => out.push(c),
            },
        }
    }
    out + "\""
}

/// A string literal.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out + "\""
}

fn key_text(key: &str) -> String {
    match key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        true => key.to_owned(),
        false => format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

const INTRINSICS: [(&str, &[&str]); 2] = [
    ("kind", &["unspecified", "internal", "server", "client", "producer", "consumer"]),
    ("status", &["error", "ok", "unset"]),
];

impl Vocabulary {
    pub fn of(rows: &[Row]) -> Self {
        let mut keys: Vec<Name> = vec![];
        let mut intrinsics: Vec<Name> = vec![];
        fn add(names: &mut Vec<Name>, text: &str, literal: impl FnOnce(&mut Vec<Literal>)) {
            let at = names.iter().position(|name| name.text == text).unwrap_or_else(|| {
                names.push(Name { text: text.to_owned(), literals: vec![] });
                names.len() - 1
            });
            literal(&mut names[at].literals);
        }
        let mut add_keys = |scope: &str, attributes: &[KeyValue]| {
            for (attribute, value) in attributes.iter().filter_map(|a| Some((a, a.value.as_ref()?))) {
                let key = key_text(&attribute.key);
                add(&mut keys, &format!("{scope}.{key}"), |l| Literal::add_any(value, l));
                if scope != "link" {
                    add(&mut keys, &format!(".{key}"), |l| Literal::add_any(value, l));
                }
            }
        };
        for row in rows {
            add_keys("span", &row.span.attributes);
            add_keys("resource", &row.resource.attributes);
            add_keys("instrumentation", &row.scope.attributes);
            row.span.events.iter().for_each(|event| add_keys("event", &event.attributes));
            row.span.links.iter().for_each(|link| add_keys("link", &link.attributes));
        }
        let mut text = |name: &str, value: String| add(&mut intrinsics, name, |l| l.push(Literal::Text(value)));
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        for row in rows.iter().step_by(7) {
            text("name", row.span.name.clone());
            text("span:name", row.span.name.clone());
            text("rootName", row.span.name.clone());
            text("trace:rootService", "orders".into());
            text("rootServiceName", String::new());
            text("statusMessage", row.span.status.as_ref().map_or(String::new(), |s| s.message.clone()));
            text("span:id", hex(&row.span.span_id));
            text("span:parentID", hex(&row.span.parent_span_id));
            text("trace:id", hex(&row.span.trace_id));
            text("instrumentation:name", row.scope.name.clone());
            text("instrumentation:version", row.scope.version.clone());
            row.span.events.iter().for_each(|event| text("event:name", event.name.clone()));
            for link in &row.span.links {
                text("link:traceID", hex(&link.trace_id));
                text("link:traceID", hex(&link.trace_id).trim_start_matches('0').to_owned());
                text("link:spanID", hex(&link.span_id));
            }
        }
        let mut number = |name: &str, value: Literal| add(&mut intrinsics, name, |l| l.push(value));
        for row in rows.iter().step_by(5) {
            let span = &row.span;
            let length = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            for name in ["duration", "span:duration", "traceDuration"] {
                number(name, Literal::of_duration(length));
            }
            for event in &span.events {
                let since = event.time_unix_nano.wrapping_sub(span.start_time_unix_nano) as i64;
                number("event:timeSinceStart", Literal::of_duration(since));
            }
        }
        for value in -1..12 {
            for name in ["span:childCount", "nestedSetLeft", "nestedSetRight", "nestedSetParent"] {
                number(name, Literal::of_int(value));
            }
        }
        for (name, words) in INTRINSICS {
            words.iter().for_each(|word| number(name, Literal::Word((*word).to_owned())));
        }
        keys.retain(|name| !name.literals.is_empty());
        Self { keys, intrinsics }
    }
}

/// Asks one query after another.
pub struct Asker<'a> {
    pub rng: StdRng,
    pub vocabulary: &'a Vocabulary,
}

impl Asker<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of.choose(&mut self.rng).expect("something to pick from")
    }

    fn key(&mut self) -> Name {
        let mut name = self.vocabulary.keys.choose(&mut self.rng).expect("there are attributes").clone();
        if !name.text.contains('"') && self.chance(0.05) {
            let (scope, key) = name.text.split_once('.').expect("a key has a dot before it");
            name.text = format!("{scope}.\"{key}\"");
        }
        self.perhaps_of_parent(name)
    }

    /// Hints change no answer, but for how many exemplars there are.
    fn hinted(&mut self, query: String) -> String {
        if !self.chance(0.08) {
            return query;
        }
        let hints = ["most_recent=true", "most_recent = false", "sample=0.1", "exemplars=false", "exemplars=7", "unheard_of=\"of\"", "span_sample=true", "a=1s, b=nil, exemplars=true"];
        format!("{query} with({})", self.pick(&hints))
    }

    fn name(&mut self) -> Name {
        match self.chance(0.65) {
            true => self.key(),
            false => {
                let name = self.vocabulary.intrinsics.choose(&mut self.rng).expect("there are intrinsics").clone();
                self.perhaps_of_parent(name)
            }
        }
    }

    fn perhaps_of_parent(&mut self, name: Name) -> Name {
        if !self.chance(0.06) {
            return name;
        }
        let text = match name.text.as_str() {
            "traceDuration" | "rootName" | "rootServiceName" => return name,
            of_trace if of_trace.starts_with("trace:") => return name,
            key if key.starts_with('.') => format!("parent{key}"),
            scoped => format!("parent.{scoped}"),
        };
        Name { text, ..name }
    }

    /// A name of something numeric, mostly.
    fn measured(&mut self) -> String {
        if self.chance(0.4) {
            return self.pick(&["duration", "duration", "traceDuration", "span:childCount", "nestedSetLeft", "event:timeSinceStart"]).into();
        }
        let numeric = |name: &&Name| name.literals.iter().any(|l| matches!(l, Literal::Number(_)));
        let names: Vec<&Name> = self.vocabulary.keys.iter().filter(numeric).collect();
        let name = (*names.choose(&mut self.rng).expect("there are numbers")).clone();
        self.perhaps_of_parent(name).text
    }

    /// A name of whatever kind.
    fn any_name(&mut self) -> String {
        self.name().text
    }

    fn comparison(&mut self) -> &'static str {
        self.pick(&["=", "!=", "<", "<=", ">", ">="])
    }

    fn literal_for(&mut self, name: &Name) -> Literal {
        // An attribute may be compared with any literal, an intrinsic only with those of its type.
        let of = if name.text.contains(['.']) && !name.text.starts_with("parent.") && self.chance(0.15) { self.key() } else { name.clone() };
        of.literals.choose(&mut self.rng).expect("kept with literals only").clone()
    }

    fn pattern(&mut self, text: &str) -> String {
        let whole = regex::escape(text);
        let half = text.char_indices().map(|(at, _)| at).nth(text.chars().count() / 2).unwrap_or(0);
        match self.below(7) {
            0 => whole,
            1 => regex::escape(&text[..half]) + ".*",
            2 => format!(".*{}", regex::escape(&text[half..])),
            3 => format!("(?i){}", regex::escape(&text.to_uppercase())),
            4 => format!("{whole}|GET|[a-c]+"),
            5 => ".+".into(),
            _ => "[^G].*".into(),
        }
    }

    /// `name op literal`, or the other way round.
    fn simple(&mut self) -> String {
        let name = self.name();
        let literal = self.literal_for(&name);
        let op = match &literal {
            Literal::Word(_) => self.pick(&["=", "!="]),
            Literal::Text(text) if self.chance(0.35) => {
                let op = self.pick(&["=~", "!~"]);
                let pattern = self.pattern(text);
                return format!("{} {op} {}", name.text, quoted(&pattern));
            }
            _ => self.comparison(),
        };
        let literal = self.write(&literal);
        match self.chance(0.1) {
            true => format!("{literal} {op} {}", name.text),
            false => format!("{} {op} {literal}", name.text),
        }
    }

    fn write(&mut self, literal: &Literal) -> String {
        match self.chance(0.15) {
            true => literal.written_otherwise(&mut self.rng),
            false => literal.written(),
        }
    }

    fn number(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0..=2 => self.measured(),
            3 => self.pick(&["1", "2", "0", "-3", "1.5", "100ms", "3ns", "-1", "0.5", "1e3", "2.5E-1", ".25", "1h2m", "0.1s"]).into(),
            4 => {
                let name = self.key();
                match name.literals.iter().find(|l| matches!(l, Literal::Number(_))) {
                    Some(literal) => self.write(literal),
                    None => name.text,
                }
            }
            5 => format!("-({})", self.number(depth - 1)),
            _ => {
                let op = self.pick(&["+", "-", "*", "/", "%", "^"]);
                format!("({} {op} {})", self.number(depth - 1), self.number(depth - 1))
            }
        }
    }

    fn leaf(&mut self) -> String {
        match self.below(20) {
            0..=9 => self.simple(),
            10 => format!("{} {} nil", self.key().text, self.pick(&["=", "!="])),
            11 => format!("{} != nil", self.any_name()),
            12 => self.key().text,
            13 => format!("!{}", self.key().text),
            14 => {
                let (left, right) = (self.name(), self.name());
                format!("{} {} {}", left.text, self.comparison(), right.text)
            }
            15 | 16 => format!("{} {} {}", self.number(2), self.comparison(), self.number(2)),
            17 => {
                let name = self.name();
                let values: Vec<Literal> = (0..=self.below(3)).map(|_| self.literal_for(&name)).collect();
                let values: Vec<String> = values.iter().map(|value| self.write(value)).collect();
                format!("{} {} [{}]", name.text, self.pick(&["in", "not in"]), values.join(", "))
            }
            18 => format!("({} {} nil)", self.number(1), self.pick(&["=", "!="])),
            _ => self.pick(&["parent = nil", "parent != nil", "true", "false", "1 < 2", "kind = server", "status = error"]).into(),
        }
    }

    pub fn condition(&mut self, depth: usize) -> String {
        if depth == 0 || self.chance(0.4) {
            return self.leaf();
        }
        match self.below(9) {
            0..=3 => format!("{} && {}", self.condition(depth - 1), self.condition(depth - 1)),
            4..=5 => format!("({} || {})", self.condition(depth - 1), self.condition(depth - 1)),
            6 | 7 => format!("!({})", self.condition(depth - 1)),
            _ => {
                let (left, op, right) = (self.condition(depth - 1), self.pick(&["=", "!="]), self.key().text);
                let right = if self.chance(0.5) { right } else { self.pick(&["true", "false"]).into() };
                format!("({left}) {op} {right}")
            }
        }
    }

    /// A condition that holds often.
    fn broad(&mut self) -> String {
        match self.below(6) {
            0 | 1 => "true".into(),
            2 => self.pick(&["kind = server", "kind != client", "status != error", "nestedSetParent < 0", "duration > 1s"]).into(),
            3 => format!("{} != nil", self.key().text),
            _ => self.condition(1),
        }
    }

    fn filter(&mut self) -> String {
        format!("{{ {} }}", self.broad())
    }

    fn spansets(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.filter();
        }
        let op = match self.chance(0.3) {
            true => self.pick(&["&&", "||"]),
            false => self.pick(&[
                ">", "<", ">>", "<<", "~", "!>", "!<", "!>>", "!<<", "!~", "&>", "&<", "&>>", "&<<", "&~",
            ]),
        };
        let mut side = || match self.below(5) {
            0 => format!("({})", self.spansets(depth - 1)),
            1 => format!("({} | {})", self.filter(), self.stage()),
            _ => self.filter(),
        };
        format!("{} {op} {}", side(), side())
    }

    fn aggregate(&mut self) -> String {
        match self.below(5) {
            0 | 1 => "count()".into(),
            2 => format!("{}({})", self.pick(&["min", "max", "avg", "sum"]), self.number(1)),
            _ => format!("{}({})", self.pick(&["min", "max", "avg", "sum"]), self.measured()),
        }
    }

    fn scalar(&mut self) -> String {
        match self.below(8) {
            0 => format!("{} {} {}", self.aggregate(), self.pick(&["+", "-", "*", "/", "%"]), self.aggregate()),
            1 => format!("{} * 2", self.aggregate()),
            2 => format!("-{}", self.aggregate()),
            _ => self.aggregate(),
        }
    }

    fn stage(&mut self) -> String {
        match self.below(8) {
            0 | 1 => {
                let right = match self.below(4) {
                    0 => self.scalar(),
                    1 => self.pick(&["1", "2", "3", "0", "-1"]).into(),
                    2 => self.pick(&["1s", "100ms", "2.5", "500"]).into(),
                    _ => "1".into(),
                };
                format!("{} {} {right}", self.scalar(), self.comparison())
            }
            2 | 3 => format!("by({})", self.any_name()),
            4 => format!("by({})", if self.chance(0.5) { self.condition(1) } else { self.number(1) }),
            5 => "coalesce()".into(),
            6 => format!("select({}, {})", self.any_name(), self.any_name()),
            _ => self.filter(),
        }
    }

    /// A search with everything a pipeline can have.
    pub fn pipeline(&mut self) -> String {
        if self.chance(0.06) {
            let op = self.pick(&[">", "=", "<="]);
            return format!("({} | {}) {op} ({} | count())", self.filter(), self.aggregate(), self.filter());
        }
        let mut stages = vec![if self.chance(0.7) { self.spansets(2) } else { self.filter() }];
        for _ in 0..self.below(4) {
            stages.push(self.stage());
        }
        if stages.len() == 1 && self.chance(0.2) {
            stages.insert(0, format!("by({})", self.any_name()));
        }
        let between = self.pick(&[" | ", " | ", " | ", "|", "\n\t| /* then */ "]);
        stages.join(between)
    }

    /// As a search.
    pub fn hinted_pipeline(&mut self) -> String {
        let query = self.pipeline();
        self.hinted(query)
    }

    /// A search with one filter, perhaps with `select`.
    pub fn single_filter(&mut self) -> String {
        let filter = format!("{{ {} }}", self.condition(3));
        let query = match self.chance(0.1) {
            true => format!("{filter} | select({}, {})", self.any_name(), self.any_name()),
            false => filter,
        };
        self.hinted(query)
    }

    fn metrics_function(&mut self) -> String {
        let function = match self.below(10) {
            0..=1 => "rate()".into(),
            2..=3 => "count_over_time()".into(),
            4..=6 => format!("{}_over_time({})", self.pick(&["min", "max", "avg", "sum"]), self.measured()),
            7 | 8 => format!("quantile_over_time({}, .5, {})", self.measured(), self.pick(&["0", "0.99", "1", ".9"])),
            _ => format!("histogram_over_time({})", self.measured()),
        };
        match self.below(7) {
            0 | 1 => function,
            2 | 3 => format!("{function} by ({})", self.any_name()),
            n => {
                let names: Vec<String> = (2..n).map(|_| self.any_name()).collect();
                format!("{function} by ({})", names.join(", "))
            }
        }
    }

    pub fn metrics(&mut self) -> String {
        let query = self.metrics_query();
        self.hinted(query)
    }

    /// Without hints.
    pub fn metrics_query(&mut self) -> String {
        let pipeline = match self.below(4) {
            0 => self.pipeline(),
            _ => self.filter(),
        };
        if self.chance(0.08) {
            let at = BASE + self.rng.random_range(0..300) * SECOND;
            let rest = match self.below(4) {
                0 => String::new(),
                1 => ", 2".into(),
                2 => ", 1000".into(),
                _ => format!(", 1000, {at}, {}", at + 200 * SECOND),
            };
            return format!("{pipeline} | compare({}{rest})", self.filter());
        }
        let function = self.metrics_function();
        let one = format!("{pipeline} | {function}");
        let query = self.with_second_stages(one);
        if !self.chance(0.1) {
            return query;
        }
        // Of sums the last digits may differ, and so may all of what is left of them.
        let exact = ["rate", "count", "min", "max"].iter().any(|word| function.starts_with(word));
        let op = if exact { self.pick(&["+", "-", "*", "/", "%", "^"]) } else { self.pick(&["+", "-", "*", "/"]) };
        match self.below(4) {
            0 => format!("({query}) {op} {}", self.pick(&["3", "1e1", ".5", "2s"])),
            1 => format!("{} {op} ({query})", self.pick(&["3", "0", "1500ms"])),
            2 => {
                let filter = self.filter();
                let other = self.with_second_stages(format!("{filter} | {function}"));
                format!("({query}) {op} ({other})")
            }
            _ => format!("(({query}) {op} ({} | {function})) {} ({} | rate())", self.filter(), self.pick(&["+", "/"]), self.filter()),
        }
    }

    /// Comparisons and selections, in any order and number.
    fn with_second_stages(&mut self, mut query: String) -> String {
        while self.chance(0.22) {
            query += &match self.chance(0.5) {
                true => format!(" {} {}", self.comparison(), self.pick(&["1", "0", "0.05", "2", "1s", "5e-2", "50ms", "-1"])),
                false => format!(" | {}({})", self.pick(&["topk", "bottomk"]), 1 + self.below(4)),
            };
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_literal_written_otherwise_is_the_same() {
        let mut rng = StdRng::seed_from_u64(4);
        let texts = ["", "GET", "a\"b\\c", "ä ß 😀\n\t", "\u{1}`", "x\ry"];
        let numbers = [0, 1, -1, 1_000, 123_456_789, -60_000_000_000, 3_600_000_000_000, i64::MAX, i64::MAX - 7, 1_500_000_000, 9_000_000_001];
        let floats = [0.0, 0.5, -0.25, 1e300, 5e-324, 1000.0, 123.456];
        let literals = texts.iter().map(|text| Literal::Text((*text).to_owned())).collect::<Vec<_>>();
        let durations = numbers.map(Literal::of_duration);
        let literals = literals.into_iter().chain(numbers.map(Literal::of_int)).chain(durations);
        let literals = literals.chain(floats.map(|value| Literal::Number(format!("{value:?}"))));
        for literal in literals {
            let parsed = |text: &str| traceql::parse(&format!("{{ .x = {text} }}")).unwrap_or_else(|e| panic!("{text}: {e}")).to_string();
            let plain = parsed(&literal.written());
            for _ in 0..20 {
                let otherwise = literal.written_otherwise(&mut rng);
                assert_eq!(parsed(&otherwise), plain, "{otherwise}");
            }
        }
    }
}
