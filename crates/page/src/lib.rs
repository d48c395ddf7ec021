//! The callers' page, for those who call an API and for those who would like to.
//!
//! Pure: values in, HTML out. The gate serves it from its replica, the center from its own state. It knows
//! no request, no clock and no connection. What is shown is what the service says of itself; nothing
//! is told about who has access.
//!
//! Without script, and without inline style: the whole page is one document and one file of style
//! ([`STYLE`]). All texts are in [`text`](Lang), in each language; maud escapes every value.

mod api;
mod form;
mod html;
mod text;

pub use api::{Api, Limit, MAX_OPERATIONS, Operation, Plan};
pub use form::{
    Ask, AskForm, MAX_CODE, MAX_FORM, MAX_KEY, MAX_PER_DAY, MAX_SENT, MAX_WHAT_FOR, MAX_WHO, field,
    fields, is_own,
};
pub use html::{HasLeft, Left, May, Notice, Page, YourKey};
pub use text::Lang;

/// The style of the page, to be served as `text/css` from the same host.
pub const STYLE: &str = include_str!("page.css");

/// What a browser may do with the page: load its style, and send its forms.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; \
                                           form-action 'self'; base-uri 'none'; \
                                           frame-ancestors 'none'";

/// What answers of the page say to a browser beside that.
///
/// `same-origin`, and not `no-referrer`: without a referrer, the origin of a form is `null`.
pub const HEADERS: [(&str, &str); 4] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
];

/// The paths below the page's own. All but the first are for `POST` alone.
pub mod paths {
    /// The file of style.
    pub const STYLE: &str = "/style.css";
    /// Asks for access.
    pub const ASK: &str = "/ask";
    /// Fetches a key.
    pub const FETCH: &str = "/key";
    /// What a key may do, and has left.
    pub const LEFT: &str = "/left";
}
