//! Generated trees print to text that reads back as the same tree.
//!
//! The generator makes what the parser can give: well-typed, without operators between constants, chains of `&&` and
//! `||` in their one shape.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use traceql::ast::*;
use traceql::chain::{LogicalOp, join};

fn span() -> Span {
    Span::default()
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,8}(\\.[a-z]{1,5})?",
        1 => "[0-9a-zA-Z_.:@/+*%-]{1,10}",
        1 => "[a-z \"\\\\=(){}&|^,~!<>é]{1,8}",
        1 => "\\PC{1,6}",
        1 => prop::sample::select(vec!["span.x", "resource", "span:name", "name", "parent", "in", "not", "5", "1e3", "//", "parent.x"])
            .prop_map(str::to_owned),
    ]
}

fn scope() -> impl Strategy<Value = Option<Scope>> {
    prop::option::weighted(0.7, prop::sample::select(Scope::ALL.to_vec()))
}

fn name(name: AttributeName, of_parent: bool) -> Attribute {
    Attribute { of_parent, name, span: SpanOfName::default() }
}

/// Of unknown type.
fn attribute() -> impl Strategy<Value = Attribute> {
    (scope(), key(), prop::bool::weighted(0.15))
        .prop_map(|(scope, key, of_parent)| name(AttributeName::Key { scope, key }, of_parent))
}

fn intrinsic_of(types: &'static [traceql::Type]) -> impl Strategy<Value = Attribute> {
    let fitting: Vec<Intrinsic> =
        Intrinsic::ALL.into_iter().filter(|intrinsic| types.contains(&intrinsic.type_of())).collect();
    (prop::sample::select(fitting), prop::bool::weighted(0.15)).prop_map(|(intrinsic, of_parent)| {
        let possible = !intrinsic.scoped().is_some_and(|scoped| scoped.starts_with("trace:"));
        name(AttributeName::Intrinsic(intrinsic), of_parent && possible)
    })
}

const NUMERIC: &[traceql::Type] = &[traceql::Type::Int, traceql::Type::Duration];
const TEXT: &[traceql::Type] = &[traceql::Type::String];
const EVERY: &[traceql::Type] = &[
    traceql::Type::Int,
    traceql::Type::Duration,
    traceql::Type::String,
    traceql::Type::Status,
    traceql::Type::Kind,
];

fn any_name() -> impl Strategy<Value = Attribute> {
    prop_oneof![2 => attribute(), 1 => intrinsic_of(EVERY)]
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![-1000.0..1000.0, prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL]
}

/// Not zero, so that it may be a divisor.
fn numeric_constant() -> impl Strategy<Value = Static> {
    prop_oneof![
        (-100_i64..100).prop_map(Static::Int),
        any::<i64>().prop_map(Static::Int),
        Just(Static::Int(i64::MIN)),
        float().prop_map(Static::Float),
        (-i64::MAX..=i64::MAX).prop_map(Static::Duration),
        (-100_000_i64..100_000).prop_map(|ms| Static::Duration(ms * 1_000_000)),
    ]
    .prop_map(|value| match value {
        Static::Int(0) => Static::Int(1),
        Static::Duration(0) => Static::Duration(1),
        Static::Float(0.0) => Static::Float(1.0),
        other => other,
    })
}

fn text_constant() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9 /]{0,10}", any::<String>()]
}

fn constant() -> impl Strategy<Value = Static> {
    prop_oneof![
        numeric_constant(),
        text_constant().prop_map(Static::String),
        any::<bool>().prop_map(Static::Bool),
        prop::sample::select(Status::ALL.to_vec()).prop_map(Static::Status),
        prop::sample::select(Kind::ALL.to_vec()).prop_map(Static::Kind),
    ]
}

fn comparison() -> impl Strategy<Value = ComparisonOp> {
    prop::sample::select(vec![
        ComparisonOp::Equal,
        ComparisonOp::NotEqual,
        ComparisonOp::Less,
        ComparisonOp::LessEqual,
        ComparisonOp::Greater,
        ComparisonOp::GreaterEqual,
    ])
}

fn equality() -> impl Strategy<Value = ComparisonOp> {
    prop::sample::select(vec![ComparisonOp::Equal, ComparisonOp::NotEqual])
}

fn arithmetic() -> impl Strategy<Value = ArithmeticOp> {
    prop::sample::select(vec![
        ArithmeticOp::Add,
        ArithmeticOp::Subtract,
        ArithmeticOp::Multiply,
        ArithmeticOp::Divide,
        ArithmeticOp::Modulo,
        ArithmeticOp::Power,
    ])
}

fn fixed(value: Static) -> FieldExpr {
    FieldExpr::Static(value, span())
}

fn compare(op: ComparisonOp, left: FieldExpr, right: FieldExpr) -> FieldExpr {
    FieldExpr::Compare { op, left: Box::new(left), right: Box::new(right), span: span() }
}

/// A number that is not a constant.
fn number() -> BoxedStrategy<FieldExpr> {
    let leaf = prop_oneof![attribute(), intrinsic_of(NUMERIC)].prop_map(FieldExpr::Attribute);
    leaf.prop_recursive(4, 24, 2, |inner| {
        let compute = |op, left, right| FieldExpr::Arithmetic { op, left: Box::new(left), right: Box::new(right), span: span() };
        prop_oneof![
            (arithmetic(), inner.clone(), inner.clone()).prop_map(move |(op, left, right)| compute(op, left, right)),
            (arithmetic(), inner.clone(), numeric_constant())
                .prop_map(move |(op, left, right)| compute(op, left, fixed(right))),
            (arithmetic(), numeric_constant(), inner.clone())
                .prop_map(move |(op, left, right)| compute(op, fixed(left), right)),
            inner.prop_map(|operand| FieldExpr::Negate(Box::new(operand))),
        ]
    })
    .boxed()
}

/// What is true or false, and not a constant.
fn truth() -> BoxedStrategy<FieldExpr> {
    let numbers = (comparison(), number(), number()).prop_map(|(op, left, right)| compare(op, left, right));
    let number_left =
        (comparison(), number(), numeric_constant()).prop_map(|(op, left, right)| compare(op, left, fixed(right)));
    let number_right =
        (comparison(), numeric_constant(), number()).prop_map(|(op, left, right)| compare(op, fixed(left), right));
    let text = (comparison(), prop_oneof![attribute(), intrinsic_of(TEXT)], text_constant())
        .prop_map(|(op, left, text)| compare(op, FieldExpr::Attribute(left), fixed(Static::String(text))));
    let pattern = (any::<bool>(), attribute(), "[a-z|.*(){}\\[\\] ]{0,4}").prop_filter_map(
        "not a pattern",
        |(matches, attribute, pattern)| {
            traceql::compile_regex(&pattern).ok()?;
            let op = if matches { ComparisonOp::Match } else { ComparisonOp::NotMatch };
            Some(compare(op, FieldExpr::Attribute(attribute), fixed(Static::String(pattern))))
        },
    );
    let equal = (equality(), attribute(), constant())
        .prop_map(|(op, left, right)| compare(op, FieldExpr::Attribute(left), fixed(right)));
    let exists = (attribute(), any::<bool>()).prop_map(|(attribute, exists)| FieldExpr::Exists {
        exists,
        operand: Box::new(FieldExpr::Attribute(attribute)),
        span: span(),
    });
    let parent = any::<bool>().prop_map(|exists| FieldExpr::Exists {
        exists,
        operand: Box::new(FieldExpr::Attribute(name(AttributeName::Intrinsic(Intrinsic::Parent), false))),
        span: span(),
    });
    let values = prop::collection::vec(constant(), 1..4);
    let listed = (attribute(), any::<bool>(), values).prop_map(|(attribute, negated, values)| FieldExpr::In {
        negated,
        operand: Box::new(FieldExpr::Attribute(attribute)),
        values,
        span: span(),
    });
    let leaf = prop_oneof![
        attribute().prop_map(FieldExpr::Attribute),
        numbers,
        number_left,
        number_right,
        text,
        equal,
        exists,
        parent,
        listed,
        // Few, for a query has at most ten.
        pattern,
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        // A constant in a chain stays, unless all are.
        let sides = (prop::collection::vec(inner.clone(), 1..4), prop::collection::vec(any::<bool>(), 0..2), any::<bool>());
        prop_oneof![
            4 => sides.prop_map(|(sides, constants, and)| {
                let op = if and { LogicalOp::And } else { LogicalOp::Or };
                let constants = constants.into_iter().map(|value| fixed(Static::Bool(value)));
                join(op, constants.chain(sides)).unwrap()
            }),
            1 => prop::collection::vec(inner.clone(), 9..20).prop_map(|sides| join(LogicalOp::Or, sides).unwrap()),
            2 => inner.clone().prop_map(|operand| FieldExpr::Not(Box::new(operand))),
            1 => (equality(), inner.clone(), any::<bool>()).prop_map(|(op, left, right)| {
                compare(op, left, fixed(Static::Bool(right)))
            }),
            1 => (equality(), inner.clone(), inner.clone()).prop_map(|(op, left, right)| compare(op, left, right)),
            1 => (inner, any::<bool>()).prop_filter_map("always there", |(operand, exists)| match operand {
                FieldExpr::Attribute(_) => None,
                operand => Some(FieldExpr::Exists { exists, operand: Box::new(operand), span: span() }),
            }),
        ]
    })
    .boxed()
}

fn filter() -> impl Strategy<Value = FieldExpr> {
    prop_oneof![8 => truth(), 1 => any::<bool>().prop_map(|value| fixed(Static::Bool(value)))]
}

fn spanset_op() -> impl Strategy<Value = SpansetOp> {
    let relations =
        vec![Relation::Child, Relation::Parent, Relation::Descendant, Relation::Ancestor, Relation::Sibling];
    let forms = vec![StructuralForm::Plain, StructuralForm::Negated, StructuralForm::Union];
    prop_oneof![
        Just(SpansetOp::And),
        Just(SpansetOp::Or),
        (prop::sample::select(relations), prop::sample::select(forms))
            .prop_map(|(relation, form)| SpansetOp::Structural { relation, form }),
    ]
}

fn spansets() -> BoxedStrategy<SpansetExpr> {
    let leaf = prop_oneof![6 => filter().prop_map(SpansetExpr::Filter), 1 => inner_pipeline()];
    leaf.prop_recursive(3, 8, 2, |inner| {
        (spanset_op(), inner.clone(), inner).prop_map(|(op, left, right)| SpansetExpr::Binary {
            op,
            left: Box::new(left),
            right: Box::new(right),
            span: span(),
        })
    })
    .boxed()
}

/// In parentheses only what is more than spansets.
fn inner_pipeline() -> impl Strategy<Value = SpansetExpr> {
    let scalar_filter = (comparison(), aggregate(), numeric_constant()).prop_map(|(op, left, right)| Stage::ScalarFilter {
        op,
        left,
        right: ScalarExpr::Static(right, span()),
        span: span(),
    });
    (prop::option::of(filter()), scalar_filter).prop_map(|(first, last)| {
        let first = first.map(|filter| Stage::Spansets(SpansetExpr::Filter(filter)));
        SpansetExpr::Pipeline(Box::new(Pipeline { stages: first.into_iter().chain([last]).collect() }))
    })
}

fn aggregate() -> BoxedStrategy<ScalarExpr> {
    let functions =
        vec![AggregateFunction::Min, AggregateFunction::Max, AggregateFunction::Avg, AggregateFunction::Sum];
    let build = |function, argument| ScalarExpr::Aggregate(Aggregate { function, argument, span: span() });
    prop_oneof![
        Just(build(AggregateFunction::Count, None)),
        (prop::sample::select(functions), number()).prop_map(move |(function, argument)| build(function, Some(argument))),
    ]
    .boxed()
}

/// Not a constant.
fn scalar() -> BoxedStrategy<ScalarExpr> {
    let piped = (filter(), aggregate()).prop_map(|(filter, value)| {
        let stages = vec![Stage::Spansets(SpansetExpr::Filter(filter))];
        ScalarExpr::Pipeline(Box::new(Pipeline { stages }), Box::new(value))
    });
    let leaf = prop_oneof![4 => aggregate(), 1 => piped];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let compute = |op, left, right| ScalarExpr::Binary { op, left: Box::new(left), right: Box::new(right), span: span() };
        let fixed = |value| ScalarExpr::Static(value, span());
        prop_oneof![
            (arithmetic(), inner.clone(), inner.clone()).prop_map(move |(op, left, right)| compute(op, left, right)),
            (arithmetic(), inner.clone(), numeric_constant())
                .prop_map(move |(op, left, right)| compute(op, left, fixed(right))),
            (arithmetic(), numeric_constant(), inner.clone())
                .prop_map(move |(op, left, right)| compute(op, fixed(left), right)),
            inner.prop_map(|operand| ScalarExpr::Negate(Box::new(operand))),
        ]
    })
    .boxed()
}

fn stage() -> BoxedStrategy<Stage> {
    let constant_right = (comparison(), scalar(), numeric_constant()).prop_map(|(op, left, right)| Stage::ScalarFilter {
        op,
        left,
        right: ScalarExpr::Static(right, span()),
        span: span(),
    });
    let both = (comparison(), scalar(), scalar())
        .prop_map(|(op, left, right)| Stage::ScalarFilter { op, left, right, span: span() });
    prop_oneof![
        4 => spansets().prop_filter_map("flat", |expr| match expr {
            SpansetExpr::Pipeline(_) => None,
            other => Some(Stage::Spansets(other)),
        }),
        2 => constant_right,
        1 => both,
        1 => any_name().prop_map(|name| Stage::GroupBy(FieldExpr::Attribute(name))),
        1 => prop_oneof![truth(), number()].prop_map(Stage::GroupBy),
        1 => prop::collection::vec(any_name(), 1..4).prop_map(Stage::Select),
    ]
    .boxed()
}

fn pipeline() -> impl Strategy<Value = Pipeline> {
    (stage(), prop::collection::vec(prop_oneof![5 => stage(), 1 => Just(Stage::Coalesce)], 0..3))
        .prop_map(|(first, rest)| Pipeline { stages: [first].into_iter().chain(rest).collect() })
}

fn plain_number() -> impl Strategy<Value = f64> {
    prop_oneof![(-100_i32..100).prop_map(f64::from), float()].prop_map(|value| if value == 0.0 { 1.0 } else { value })
}

fn metrics_query() -> impl Strategy<Value = MetricsQuery> {
    let measured = || prop_oneof![attribute(), intrinsic_of(NUMERIC)];
    let function = prop_oneof![
        Just(MetricsFunction::Rate),
        Just(MetricsFunction::CountOverTime),
        measured().prop_map(MetricsFunction::MinOverTime),
        measured().prop_map(MetricsFunction::MaxOverTime),
        measured().prop_map(MetricsFunction::SumOverTime),
        measured().prop_map(MetricsFunction::AvgOverTime),
        measured().prop_map(MetricsFunction::HistogramOverTime),
        (measured(), prop::collection::vec(0.0..=1.0, 1..4))
            .prop_map(|(attribute, quantiles)| MetricsFunction::QuantileOverTime(attribute, quantiles)),
    ];
    let second = prop_oneof![
        (1..=i64::MAX).prop_map(SecondStage::TopK),
        (1_i64..100).prop_map(SecondStage::BottomK),
        (comparison(), plain_number()).prop_map(|(op, value)| SecondStage::Compare(op, value)),
    ];
    (pipeline(), function, prop::collection::vec(any_name(), 0..4), prop::collection::vec(second, 0..3))
        .prop_map(|(pipeline, function, by, second)| MetricsQuery { pipeline, function, by, second, span: span() })
}

fn metrics() -> BoxedStrategy<MetricsExpr> {
    let leaf = metrics_query().prop_map(MetricsExpr::Query);
    let arithmetic = leaf.prop_recursive(2, 4, 2, |inner| {
        let compute = |op, left, right| MetricsExpr::Binary { op, left: Box::new(left), right: Box::new(right) };
        prop_oneof![
            (arithmetic(), inner.clone(), inner.clone()).prop_map(move |(op, left, right)| compute(op, left, right)),
            (arithmetic(), inner.clone(), plain_number())
                .prop_map(move |(op, left, right)| compute(op, left, MetricsExpr::Number(right))),
            (arithmetic(), plain_number(), inner)
                .prop_map(move |(op, left, right)| compute(op, MetricsExpr::Number(left), right)),
        ]
    });
    let range = (any::<i32>(), 1..i32::MAX).prop_map(|(start, length)| {
        let start = i64::from(start).abs();
        (start, start + i64::from(length))
    });
    let limits = prop::option::of((1_i64..100, prop::option::of(range)));
    let compare = (pipeline(), filter(), limits).prop_map(|(pipeline, selection, limits)| {
        MetricsExpr::Query(MetricsQuery {
            pipeline,
            function: MetricsFunction::Compare {
                selection,
                top_n: limits.map(|(top_n, _)| top_n),
                range: limits.and_then(|(_, range)| range),
            },
            by: Vec::new(),
            second: Vec::new(),
            span: span(),
        })
    });
    prop_oneof![5 => arithmetic, 1 => compare].boxed()
}

fn query() -> impl Strategy<Value = Query> {
    let body = prop_oneof![pipeline().prop_map(QueryBody::Search), metrics().prop_map(QueryBody::Metrics)];
    let hint = ("[a-z_]{1,8}", constant()).prop_map(|(key, value)| Hint { key, value });
    (body, prop::collection::vec(hint, 0..3)).prop_map(|(body, hints)| Query { body, hints })
}

fn reads_back(tree: Query) -> Result<(), TestCaseError> {
    let text = tree.to_string();
    match traceql::parse(&text) {
        Ok(read) => prop_assert_eq!(&read, &tree, "{}", text),
        // The generator does not count patterns.
        Err(error) if error.message.contains("regular expressions") => {}
        Err(error) => prop_assert!(false, "{}", error.render(&text)),
    }
    Ok(())
}

fn filter_query(filter: FieldExpr) -> Query {
    let stages = vec![Stage::Spansets(SpansetExpr::Filter(filter))];
    Query { body: QueryBody::Search(Pipeline { stages }), hints: Vec::new() }
}

/// The generator of whole queries, unoptimised, needs more stack than a test's thread has.
#[test]
fn printed_queries_read_back() {
    let run = || {
        if let Err(error) = TestRunner::new(Config::with_cases(768)).run(&query(), reads_back) {
            panic!("{error}");
        }
    };
    std::thread::Builder::new().stack_size(64 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn printed_filters_read_back(filter in filter()) {
        reads_back(filter_query(filter))?;
    }

    #[test]
    fn labels_of_attributes_read_back(attribute in any_name()) {
        // Where nothing needs an escape, the label is the name in a query too.
        let label = attribute.to_string();
        if !label.contains(['"', '\\']) && !label.contains("parent.") {
            prop_assert_eq!(traceql::parse_attribute(&label), Ok(attribute), "{}", label);
        }
    }

    #[test]
    fn a_usable_filter_is_read_leniently(filter in truth()) {
        if let Ok(query) = traceql::parse(&filter_query(filter.clone()).to_string()) {
            let lenient = traceql::lenient_filter(&query.to_string());
            prop_assert_eq!(lenient, Some(filter));
        }
    }
}
