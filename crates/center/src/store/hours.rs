//! What the centers of one store saw of the last hour: counts by service and by limit, in spans of ten
//! seconds. No part of the state: no revision, no audit, and nothing waits for it.

/// Seconds of a span.
pub const SPAN_S: u64 = 10;

/// Spans of a minute.
pub const SPANS: u64 = 6;

/// The most that a span has of anything, so that sums fit.
pub const MOST: u64 = 1 << 44;

/// Requests, by what came of them. Of a limit: those that it was asked about, and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// Refused, for any reason.
    pub refused: u64,
    /// Over a limit.
    pub limited: u64,
    /// Denied.
    pub denied: u64,
    /// Not decided.
    pub undecided: u64,
}

impl Counts {
    /// In the order of the columns.
    pub fn all(self) -> [u64; 5] {
        let Counts { requests, refused, limited, denied, undecided } = self;
        [requests, refused, limited, denied, undecided]
    }

    /// Both together; never more than fits.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            requests: self.requests.saturating_add(other.requests),
            refused: self.refused.saturating_add(other.refused),
            limited: self.limited.saturating_add(other.limited),
            denied: self.denied.saturating_add(other.denied),
            undecided: self.undecided.saturating_add(other.undecided),
        }
    }

    /// At most [`MOST`] of each.
    #[must_use]
    pub fn bounded(self) -> Counts {
        let [requests, refused, limited, denied, undecided] = self.all().map(|n| n.min(MOST));
        Counts { requests, refused, limited, denied, undecided }
    }
}

/// What is counted: a service, or one of its limits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Of {
    /// The service.
    pub service: String,
    /// The limit's name; empty: the service as a whole.
    pub limit: String,
}

impl Of {
    /// A service as a whole.
    pub fn service(name: &str) -> Of {
        Of::limit(name, "")
    }

    /// One of its limits.
    pub fn limit(service: &str, limit: &str) -> Of {
        Of { service: service.to_owned(), limit: limit.to_owned() }
    }
}

/// What this center saw in one span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRow {
    /// The span, counted from the Unix epoch.
    pub span: u64,
    /// Of what.
    pub of: Of,
    /// How many.
    pub counts: Counts,
    /// Whether each gate says what came of its requests.
    pub is_told: bool,
}

/// What other centers, and this one before it was started, saw in one minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinuteRow {
    /// The minute, counted from the Unix epoch.
    pub minute: u64,
    /// Of what.
    pub of: Of,
    /// How many.
    pub counts: Counts,
    /// Whether each gate says what came of its requests.
    pub is_told: bool,
    /// In which of its spans something was heard, as bits.
    pub spans: u8,
}

/// What of the hour has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HourHeard {
    /// The time of the store, in milliseconds since the Unix epoch.
    pub store_unix_ms: u64,
    /// How many other centers run.
    pub others: u64,
    /// From this minute on, the rows are all that there is; none: nothing has changed.
    pub from: Option<u64>,
    /// By minute.
    pub rows: Vec<MinuteRow>,
}
