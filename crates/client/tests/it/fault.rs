//! What a center for tests does wrong when it is told to.

/// One misdeed, done once, at the next message that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ends the connection before the message.
    Disconnect,
    /// Ends the stream with an error.
    Status,
    /// Ends the stream in good order.
    End,
    /// Says nothing more on this stream.
    Stall,
    /// Leaves out a delta.
    LoseDelta,
    /// Sends a delta twice.
    RepeatDelta,
    /// Sends a delta with a change left out, its digest as it should be.
    AlterDelta,
    /// Sends a delta whose digest is another's.
    MisdigestDelta,
    /// Sends a delta with an item that does not decode.
    BreakDelta,
    /// Flips a byte in a chunk.
    CorruptChunk,
    /// Leaves out a chunk.
    LoseChunk,
    /// Sends a chunk twice.
    RepeatChunk,
    /// Announces another digest for the snapshot.
    MisdigestSnapshot,
    /// Announces another revision for the snapshot (and so, other contents).
    EndEarly,
    /// Begins the snapshot twice.
    BeginTwice,
    /// Sends a heartbeat whose head is ahead of everything.
    HeadAhead,
    /// Sends a heartbeat of another history.
    ForeignHeartbeat,
    /// Sends a delta of another history.
    ForeignDelta,
    /// Sends a snapshot without a mark.
    UnmarkedSnapshot,
}

pub const FAULTS: &[Fault] = &[
    Fault::Disconnect,
    Fault::Status,
    Fault::End,
    Fault::Stall,
    Fault::LoseDelta,
    Fault::RepeatDelta,
    Fault::AlterDelta,
    Fault::MisdigestDelta,
    Fault::BreakDelta,
    Fault::CorruptChunk,
    Fault::LoseChunk,
    Fault::RepeatChunk,
    Fault::MisdigestSnapshot,
    Fault::EndEarly,
    Fault::BeginTwice,
    Fault::HeadAhead,
    Fault::ForeignHeartbeat,
    Fault::ForeignDelta,
    Fault::UnmarkedSnapshot,
];
