//! Metrics functions and what follows them.

use super::*;

/// A number of arithmetic between metrics queries, or of a comparison with their samples: durations in seconds.
pub(super) fn number(value: &Static) -> Option<f64> {
    match value {
        Static::Int(value) => Some(*value as f64),
        Static::Float(value) => Some(*value),
        Static::Duration(nanoseconds) => Some(*nanoseconds as f64 / 1e9),
        _ => None,
    }
}

impl Parser<'_> {
    /// From the word of the function.
    pub(super) fn metrics_query(&mut self, pipeline: Pipeline, start: Span) -> Result<MetricsQuery> {
        let function = self.metrics_function()?;
        let by = match self.eat_word("by") {
            true => self.attribute_list("by")?,
            false => Vec::new(),
        };
        Ok(MetricsQuery { pipeline, function, by, second: Vec::new(), span: self.since(start) })
    }

    fn metrics_function(&mut self) -> Result<MetricsFunction> {
        let word = self.peek_word().unwrap_or_default();
        self.advance();
        self.expect(Symbol::ParenOpen, &format!("after `{word}`"))?;
        let function = match word {
            "rate" => MetricsFunction::Rate,
            "count_over_time" => MetricsFunction::CountOverTime,
            "min_over_time" => MetricsFunction::MinOverTime(self.measured(word)?),
            "max_over_time" => MetricsFunction::MaxOverTime(self.measured(word)?),
            "sum_over_time" => MetricsFunction::SumOverTime(self.measured(word)?),
            "avg_over_time" => MetricsFunction::AvgOverTime(self.measured(word)?),
            "histogram_over_time" => MetricsFunction::HistogramOverTime(self.measured(word)?),
            "quantile_over_time" => {
                let attribute = self.measured(word)?;
                let mut quantiles = Vec::new();
                while self.eat(Symbol::Comma) {
                    quantiles.push(self.quantile()?);
                }
                if quantiles.is_empty() {
                    return Err(Fault::new(self.span(), "`quantile_over_time` needs at least one quantile")
                        .help("write for example `quantile_over_time(duration, .5, .99)`"));
                }
                MetricsFunction::QuantileOverTime(attribute, quantiles)
            }
            "compare" => self.comparison_of_selections()?,
            _ => return Err(self.unexpected("a metrics function")),
        };
        self.expect(Symbol::ParenClose, &format!("after the arguments of `{word}`"))?;
        Ok(function)
    }

    fn measured(&mut self, function: &str) -> Result<Attribute> {
        self.attribute(&format!("to measure in `{function}(...)`"))
    }

    fn quantile(&mut self) -> Result<f64> {
        self.node()?;
        let value = match self.peek() {
            Kind::Int(value) => *value as f64,
            Kind::Float(value) => *value,
            _ => return Err(self.unexpected("a quantile from 0 to 1")),
        };
        if !(0.0..=1.0).contains(&value) {
            return Err(Fault::new(self.span(), format!("the quantile {value} is not from 0 to 1"))
                .help("the 99th percentile is written `.99`"));
        }
        self.advance();
        Ok(value)
    }

    /// The arguments of `compare`.
    fn comparison_of_selections(&mut self) -> Result<MetricsFunction> {
        if self.peek_symbol() != Some(Symbol::BraceOpen) {
            return Err(self.unexpected("a selection in braces, as in `compare({ status = error })`"));
        }
        let selection = self.braces()?;
        let mut numbers = Vec::new();
        let mut spans = Vec::new();
        while self.eat(Symbol::Comma) {
            self.node()?;
            let Kind::Int(value) = self.peek() else {
                return Err(self.unexpected("a whole number"));
            };
            numbers.push(*value);
            spans.push(self.span());
            self.advance();
        }
        let (top_n, range) = match numbers[..] {
            [] => (None, None),
            [top_n] => (Some(top_n), None),
            // Without a time of its own.
            [top_n, 0, 0] => (Some(top_n), None),
            [top_n, start, end] => (Some(top_n), Some((start, end))),
            _ => {
                return Err(Fault::new(self.span(), "`compare` takes a selection, how many values, and start and end")
                    .help("write `compare({ ... })`, `compare({ ... }, 10)` or `compare({ ... }, 10, start, end)`"));
            }
        };
        if top_n.is_some_and(|n| n <= 0) {
            return Err(Fault::new(spans[0], "the number of values to compare must be at least 1"));
        }
        if range.is_some_and(|(start, end)| end <= start) {
            return Err(Fault::new(spans[2], "the end of the selection must be after its start")
                .help("both are Unix nanoseconds"));
        }
        Ok(MetricsFunction::Compare { selection, top_n, range })
    }

    /// `| topk(n)`, `| bottomk(n)`, `> n`, in any order and number.
    pub(super) fn second_stages(&mut self, expr: &mut MetricsExpr) -> Result<()> {
        loop {
            let start = self.span();
            let stage = match self.peek_symbol() {
                Some(Symbol::Pipe) => {
                    self.advance();
                    self.selection_of_series()?
                }
                Some(symbol) if let Some(op) = comparison(symbol) => {
                    if matches!(op, ComparisonOp::Match | ComparisonOp::NotMatch) {
                        return Err(Fault::new(start, "samples are compared by = != < <= > >="));
                    }
                    self.advance();
                    let at = self.span();
                    match self.literal().ok().as_ref().and_then(number) {
                        Some(value) => SecondStage::Compare(op, value),
                        None => {
                            return Err(Fault::new(at, "samples are compared with a number or a duration")
                                .help("write for example `| rate() > 5`"));
                        }
                    }
                }
                _ => return Ok(()),
            };
            self.node()?;
            let span = self.since(start);
            match expr {
                MetricsExpr::Query(query) if matches!(query.function, MetricsFunction::Compare { .. }) => {
                    return Err(Fault::new(span, "nothing can follow `compare(...)`"));
                }
                MetricsExpr::Query(query) => query.second.push(stage),
                MetricsExpr::Binary { .. } | MetricsExpr::Number(_) => {
                    return Err(Fault::new(span, "this applies to one metrics query, not to arithmetic between them")
                        .help("put it into the parentheses of the query it belongs to"));
                }
            }
        }
    }

    fn selection_of_series(&mut self) -> Result<SecondStage> {
        let word = match self.peek_word() {
            Some(word @ ("topk" | "bottomk")) => word,
            Some(word) if crate::names::METRICS_FUNCTIONS.contains(&word) => {
                return Err(Fault::new(self.span(), "a query has one metrics function")
                    .help("write a query for each, or `({ ... } | rate()) / ({ ... } | rate())`"));
            }
            _ => return Err(self.unexpected("`topk(n)` or `bottomk(n)` after a metrics function")),
        };
        self.advance();
        self.expect(Symbol::ParenOpen, &format!("after `{word}`"))?;
        let count = match self.peek() {
            Kind::Int(count) if *count > 0 => *count,
            Kind::Int(_) | Kind::Symbol(Symbol::Minus) => {
                return Err(Fault::new(self.span(), format!("`{word}` needs a number of series that is at least 1")));
            }
            _ => return Err(self.unexpected("a number of series")),
        };
        self.advance();
        self.expect(Symbol::ParenClose, &format!("after the argument of `{word}`"))?;
        Ok(match word {
            "topk" => SecondStage::TopK(count),
            _ => SecondStage::BottomK(count),
        })
    }
}
