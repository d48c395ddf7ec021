//! The OpenID AuthZEN Authorization API 1.0: bodies and their meaning.
