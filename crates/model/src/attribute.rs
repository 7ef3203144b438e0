//! Where an attribute hangs and what its value is.

/// The owner of an attribute, in TraceQL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttributeScope {
    Resource,
    Span,
    Event,
    Link,
    Instrumentation,
}

impl AttributeScope {
    pub const ALL: [Self; 5] = [Self::Resource, Self::Span, Self::Event, Self::Link, Self::Instrumentation];

    /// The scope's word in TraceQL and in column names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Span => "span",
            Self::Event => "event",
            Self::Link => "link",
            Self::Instrumentation => "instrumentation",
        }
    }
}

/// The types an attribute can have a column of its own for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttributeType {
    String,
    Long,
    Double,
    Boolean,
}

impl AttributeType {
    pub const ALL: [Self; 4] = [Self::String, Self::Long, Self::Double, Self::Boolean];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Long => "long",
            Self::Double => "double",
            Self::Boolean => "boolean",
        }
    }
}
