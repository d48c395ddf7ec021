//! Who is making the requests: heavy hitters and crawls, in bounded memory.
