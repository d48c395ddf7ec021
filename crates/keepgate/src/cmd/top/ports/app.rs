//! The state of `keepgate top`, without a terminal: what is shown, and what a key does to it.

use keepgate_ports::netns::{self, Namespace};
use keepgate_ports::report::{BucketReport, Report};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Longest filter text.
const MAX_FILTER: usize = 64;

/// One look at a namespace: a report, or why there is none.
pub(super) struct Look {
    pub(super) namespace: Namespace,
    pub(super) report: Result<Report, String>,
}

/// What the caller has to do after a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    Quit,
    /// Look into another namespace from now on.
    Enter(Namespace),
}

/// In which order destinations are shown; the first one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Pressure,
    Opens,
    Used,
    Name,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pressure => "pressure",
            Self::Opens => "opens",
            Self::Used => "used",
            Self::Name => "name",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Pressure => Self::Opens,
            Self::Opens => Self::Used,
            Self::Used => Self::Name,
            Self::Name => Self::Pressure,
        }
    }
}

/// What covers the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    Nothing,
    /// The doctor's words on the chosen destination; how far they are scrolled.
    Finding(u16),
    /// The filter is being typed.
    Filter,
    /// A namespace is being chosen.
    Namespaces(Vec<Namespace>, usize),
}

pub(super) struct App {
    pub(super) namespace: Namespace,
    pub(super) color: bool,
    pub(super) report: Option<Report>,
    pub(super) error: Option<String>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Which of the shown destinations is chosen.
    pub(super) chosen: usize,
    pub(super) over: Over,
}

impl App {
    pub(super) fn new(namespace: Namespace, color: bool) -> Self {
        Self {
            namespace,
            color,
            report: None,
            error: None,
            sort: Sort::Pressure,
            filter: String::new(),
            chosen: 0,
            over: Over::Nothing,
        }
    }

    /// Takes a new look, unless it is of a namespace that was left meanwhile.
    pub(super) fn take(&mut self, look: Look) {
        if look.namespace != self.namespace {
            return;
        }
        let chosen = self.chosen_name();
        match look.report {
            Ok(report) => {
                self.report = Some(report);
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
        self.choose(chosen);
    }

    /// The same destination stays chosen, wherever it is now.
    fn choose(&mut self, chosen: Option<String>) {
        let now = chosen.and_then(|c| self.shown().iter().position(|(_, b)| name(b) == c));
        self.chosen = now.unwrap_or(self.chosen).min(self.shown().len().saturating_sub(1));
    }

    /// The destinations that pass the filter, sorted, each with its place in the report.
    pub(super) fn shown(&self) -> Vec<(usize, &BucketReport)> {
        let Some(report) = &self.report else { return Vec::new() };
        let mut shown: Vec<(usize, &BucketReport)> = report
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, bucket)| self.filter.is_empty() || matches(bucket, &self.filter))
            .collect();
        let pressure = |b: &BucketReport| f64::from(b.used) / f64::from(b.usable.max(1));
        shown.sort_by(|(_, a), (_, b)| {
            let by = match self.sort {
                Sort::Pressure => pressure(b).total_cmp(&pressure(a)),
                Sort::Opens => {
                    b.opens_per_s.unwrap_or(0.0).total_cmp(&a.opens_per_s.unwrap_or(0.0))
                }
                Sort::Used => b.used.cmp(&a.used),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            by.then_with(|| (a.dst, a.dport, a.src).cmp(&(b.dst, b.dport, b.src)))
        });
        shown
    }

    /// The chosen destination and its place in the report.
    pub(super) fn chosen(&self) -> Option<(usize, &BucketReport)> {
        self.shown().get(self.chosen).copied()
    }

    fn chosen_name(&self) -> Option<String> {
        self.chosen().map(|(_, bucket)| name(bucket))
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Step {
        let control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if control_c {
            return Step::Quit;
        }
        match &mut self.over {
            Over::Nothing => return self.list_key(key.code),
            Over::Finding(scroll) => match key.code {
                KeyCode::Down | KeyCode::Char('j') => *scroll = scroll.saturating_add(1).min(200),
                KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
                _ => self.over = Over::Nothing,
            },
            Over::Filter => match key.code {
                KeyCode::Enter => self.over = Over::Nothing,
                KeyCode::Esc => {
                    self.filter.clear();
                    self.over = Over::Nothing;
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                    self.chosen = 0;
                }
                KeyCode::Char(c) if self.filter.len() < MAX_FILTER => {
                    self.filter.push(c);
                    self.chosen = 0;
                }
                _ => {}
            },
            Over::Namespaces(all, at) => match key.code {
                KeyCode::Down | KeyCode::Char('j') => {
                    *at = (*at + 1).min(all.len().saturating_sub(1));
                }
                KeyCode::Up | KeyCode::Char('k') => *at = at.saturating_sub(1),
                KeyCode::Enter => {
                    let namespace = all.get(*at).cloned().unwrap_or_default();
                    self.over = Over::Nothing;
                    self.namespace = namespace.clone();
                    self.report = None;
                    self.error = None;
                    self.chosen = 0;
                    return Step::Enter(namespace);
                }
                _ => self.over = Over::Nothing,
            },
        }
        Step::Stay
    }

    fn list_key(&mut self, code: KeyCode) -> Step {
        let last = self.shown().len().saturating_sub(1);
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Step::Quit,
            KeyCode::Down | KeyCode::Char('j') => self.chosen = (self.chosen + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = last,
            KeyCode::Char('s') => {
                let chosen = self.chosen_name();
                self.sort = self.sort.next();
                self.choose(chosen);
            }
            KeyCode::Char('/') => self.over = Over::Filter,
            KeyCode::Enter if self.chosen().is_some() => self.over = Over::Finding(0),
            KeyCode::Char('n') => {
                let all: Vec<Namespace> =
                    netns::list().0.into_iter().map(|listed| listed.namespace).collect();
                let at = all.iter().position(|n| *n == self.namespace).unwrap_or(0);
                self.over = Over::Namespaces(all, at);
            }
            _ => {}
        }
        Step::Stay
    }
}

/// A destination as it is written in the list; what must not be cut off comes first.
pub(super) fn name(bucket: &BucketReport) -> String {
    let destination = std::net::SocketAddr::new(bucket.dst, bucket.dport);
    format!("{destination} from {}", bucket.src)
}

fn matches(bucket: &BucketReport, filter: &str) -> bool {
    let filter = filter.to_lowercase();
    let owner = |o: &keepgate_ports::snapshot::Owner| o.command.to_lowercase().contains(&filter);
    name(bucket).contains(&filter)
        || bucket.cause.name().contains(&filter)
        || bucket.owners.iter().any(owner)
}
