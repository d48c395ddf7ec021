//! How lines look: their format, and which members are left out or hashed.

use ring::hmac;

/// How a record is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line, with all members.
    #[default]
    Json,
    /// The Common Log Format.
    Common,
    /// The Combined Log Format: Common, then `Referer` and `User-Agent`.
    Combined,
}

impl Format {
    /// The format of this name.
    pub fn of(name: &str) -> Option<Format> {
        match name {
            "json" => Some(Format::Json),
            "common" => Some(Format::Common),
            "combined" => Some(Format::Combined),
            _ => None,
        }
    }
}

macro_rules! members {
    ($($variant:ident $name:literal $text:literal,)*) => {
        /// A member of a record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each is the member of its name")]
        pub enum Member {
            $($variant,)*
        }

        impl Member {
            /// In the order in which they are written.
            pub const ALL: &'static [Member] = &[$(Member::$variant,)*];

            /// Its name in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Member::$variant => $name,)*
                }
            }

            /// What comes before its value: `,"name":`.
            pub(crate) fn head(self) -> &'static [u8] {
                match self {
                    $(Member::$variant => concat!(",\"", $name, "\":").as_bytes(),)*
                }
            }

            /// It is a text, which can be hashed.
            pub fn is_text(self) -> bool {
                match self {
                    $(Member::$variant => $text,)*
                }
            }
        }
    };
}

members! {
    Time "time" false,
    RequestId "request_id" true,
    TraceId "trace_id" true,
    Gate "gate" true,
    Site "site" true,
    Service "service" true,
    Principal "principal" true,
    IdentifiedBy "identified_by" true,
    Address "address" true,
    Method "method" true,
    Host "host" true,
    Route "route" true,
    Path "path" true,
    Action "action" true,
    Resource "resource" true,
    Outcome "outcome" true,
    Reason "reason" true,
    Status "status" false,
    Policies "policies" false,
    Revision "revision" false,
    AgeMs "age_ms" false,
    DecideNs "decide_ns" false,
    UpstreamUs "upstream_us" false,
    UpstreamAddress "upstream_address" true,
    Reused "reused" false,
    Inputs "inputs" false,
    BytesIn "bytes_in" false,
    BytesOut "bytes_out" false,
    TotalUs "total_us" false,
}

impl Member {
    /// The member of this name.
    pub fn of(name: &str) -> Option<Member> {
        Member::ALL.iter().copied().find(|member| member.name() == name)
    }

    /// It says when, or how it ended: without it a record says nothing.
    pub fn is_needed(self) -> bool {
        matches!(self, Member::Time | Member::Outcome | Member::Status)
    }

    /// A decision cannot be made again without it.
    fn is_replayed(self) -> bool {
        matches!(
            self,
            Member::Service
                | Member::Principal
                | Member::Action
                | Member::Resource
                | Member::Revision
                | Member::Inputs
        )
    }
}

/// Some members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members(u64);

impl Members {
    /// None.
    pub const NONE: Members = Members(0);

    /// These, and this one.
    #[must_use]
    pub fn with(self, member: Member) -> Members {
        Members(self.0 | 1 << member as u8)
    }

    /// Whether it is one of them.
    pub fn has(self, member: Member) -> bool {
        self.0 & 1 << member as u8 != 0
    }
}

impl FromIterator<Member> for Members {
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Members {
        members.into_iter().fold(Members::NONE, Members::with)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The format.
    pub format: Format,
    /// Members that are not written.
    pub left_out: Members,
    /// Members of which a keyed hash is written; without a key they are left out.
    pub hashed: Members,
    /// The key.
    pub key: Option<HashKey>,
    /// Paths are written with their query.
    pub query: bool,
}

impl Shape {
    /// Whether decisions can be made again from what is written.
    pub(crate) fn is_replayable(&self) -> bool {
        let touched = Members(self.left_out.0 | self.hashed.0);
        !Member::ALL.iter().any(|member| member.is_replayed() && touched.has(*member))
    }

    /// The hash of a text in place of it.
    pub(crate) fn hash(&self, text: &[u8]) -> Option<[u8; 16]> {
        let tag = hmac::sign(&self.key.as_ref()?.0, text);
        tag.as_ref().first_chunk().copied()
    }
}

/// The key of hashes (HMAC-SHA256): whoever has it can tell whether a hash is of a name that they know.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

impl HashKey {
    /// The fewest bytes of a key.
    pub const LEAST: usize = 16;

    /// Of these bytes; none: they are too few.
    pub fn new(bytes: &[u8]) -> Option<HashKey> {
        (bytes.len() >= HashKey::LEAST).then(|| HashKey(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}
