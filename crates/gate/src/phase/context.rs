//! The context of a decision, filled anew for each request into the same memory.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) map: BTreeMap<String, Value>,
}

impl Context {
    /// `context.method`, `context.path`, `context.host` and, where there is one, `context.ip`; all
    /// strings.
    pub(crate) fn fill(&mut self, method: &str, path: &str, host: &str, ip: Option<IpAddr>) {
        self.put("method", |text| text.push_str(method));
        self.put("path", |text| text.push_str(path));
        self.put("host", |text| text.push_str(host));
        match ip {
            Some(ip) => self.put("ip", |text| {
                use std::fmt::Write as _;
                // Writing to a String cannot fail.
                let _ = write!(text, "{ip}");
            }),
            None => {
                self.map.remove("ip");
            }
        }
    }

    fn put(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        if let Some(Value::String(text)) = self.map.get_mut(name) {
            text.clear();
            write(text);
        } else {
            let mut text = String::new();
            write(&mut text);
            self.map.insert(name.to_owned(), Value::String(text));
        }
    }
}
