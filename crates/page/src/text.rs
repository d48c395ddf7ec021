//! What the page says, in each language.
//!
//! A message is a function with a text for each language, so one that is missing does not compile.

use std::fmt::Display;

/// A language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English.
    #[default]
    English,
    /// Simplified Chinese.
    Chinese,
}

impl Lang {
    /// Each of them.
    pub const ALL: [Lang; 2] = [Lang::English, Lang::Chinese];

    /// As in HTML (BCP 47).
    pub fn tag(self) -> &'static str {
        match self {
            Lang::English => "en",
            Lang::Chinese => "zh-Hans",
        }
    }

    /// Its name in itself.
    pub fn own_name(self) -> &'static str {
        match self {
            Lang::English => "English",
            Lang::Chinese => "\u{7b80}\u{4f53}\u{4e2d}\u{6587}",
        }
    }

    /// The language of a tag.
    pub fn from_tag(tag: &str) -> Option<Lang> {
        Lang::ALL.into_iter().find(|lang| lang.tag() == tag)
    }

    /// The one that `Accept-Language` prefers; English where it names neither.
    pub fn accepted(header: &str) -> Lang {
        let mut best = (0.0, Lang::English);
        for one in header.split(',') {
            let (tag, weight) = one.split_once(';').unwrap_or((one, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.parse().ok());
            let base = tag.trim().split('-').next().unwrap_or_default();
            let lang = match base {
                base if base.eq_ignore_ascii_case("en") => Lang::English,
                base if base.eq_ignore_ascii_case("zh") => Lang::Chinese,
                _ => continue,
            };
            let weight: f64 = weight.unwrap_or(0.0);
            if weight > best.0 {
                best = (weight, lang);
            }
        }
        best.1
    }
}

macro_rules! messages {
    ($($name:ident $(($($arg:ident),+))?: $en:literal, $zh:literal;)*) => {
        impl Lang {
            $(messages!(@one $name [$($($arg),+)?] $en $zh);)*
        }

        /// Every message: its name, and its text in each language.
        #[cfg(test)]
        const ALL: &[(&str, &str, &str)] = &[$((stringify!($name), $en, $zh)),*];
    };
    (@one $name:ident [] $en:literal $zh:literal) => {
        pub(crate) fn $name(self) -> &'static str {
            match self {
                Lang::English => $en,
                Lang::Chinese => $zh,
            }
        }
    };
    (@one $name:ident [$($arg:ident),+] $en:literal $zh:literal) => {
        pub(crate) fn $name(self, $($arg: impl Display),+) -> String {
            match self {
                Lang::English => format!($en),
                Lang::Chinese => format!($zh),
            }
        }
    };
}

messages! {
    skip: "Skip to content", "跳到正文";
    on_page: "On this page", "本页内容";
    language: "Language", "语言";
    rests: "What can be asked, how much, and how to get more", "可以请求什么、多少，以及如何申请更多";
    own_help: "More about this API", "关于此 API 的更多信息";

    limited_head: "A 429 sent you here?", "是 429 把您带到这里的吗？";
    limited: "You asked faster than a limit allows. The answer's Retry-After says how many seconds to wait. \
              Its violated-policies names the limit, which is below. Slowing down works right away; \
              for more, ask for access.",
             "您的请求速度超过了限额。响应中的 Retry-After 说明需要等待多少秒，\
              violated-policies 指出是哪一条限额（见下文）。放慢速度立即有效；如需更多，请申请访问。";

    operations: "Operations", "操作";
    no_operations: "This API has no routes yet.", "此 API 还没有路由。";
    left_out(n): "{n} more operations are not listed.", "还有 {n} 个操作未列出。";
    any_method: "any", "任意";
    needs_nothing: "no credentials needed", "无需凭据";
    curl_of(method, path): "curl line for {method} {path}", "{method} {path} 的 curl 命令";
    no_origin(host): "Replace {host} by the address of this API. It is not known here.",
                     "请将 {host} 换成此 API 的地址；此处不知道该地址。";
    codes: "200: the answer. 401: the credentials are missing or wrong. 403: they may not do this, and trying \
            again does not help. 429: too fast, come back after Retry-After. 503: not decided, try again; \
            you are not denied.",
           "200：成功。401：缺少凭据或凭据错误。403：无权执行，重试无用。429：太快，请在 Retry-After \
            之后再来。503：尚无法决定，请重试；并非拒绝。";

    sign_in: "How to authenticate", "如何认证";
    by_key: "Send your API key in this header:", "在此请求头中发送您的 API 密钥：";
    by_token: "Send a bearer token:", "发送 bearer 令牌：";
    by_certificate: "Show a client certificate in TLS.", "在 TLS 中出示客户端证书。";
    by_other: "Callers are identified by a proxy in front of this API.", "调用方由此 API 前面的代理识别。";
    never_in_address: "Never put a key in the address.", "切勿把密钥放在网址中。";

    limits: "Limits", "限额";
    no_limits: "Nothing is limited without a plan.", "没有方案时不限制任何请求。";
    name: "Name", "名称";
    counted_by: "Counted by", "计数依据";
    how_much: "How much", "数量";
    on: "On", "适用于";
    everything: "everything", "全部";
    burst(n): "up to {n} at once", "一次最多 {n} 个";
    under_way(n): "{n} under way at the same time", "同时进行 {n} 个";
    plan: "Plan", "方案";
    no_plan: "none", "无";

    your_key: "Your key", "您的密钥";
    your_key_hint: "What it may do, and what it has left right now. It is not kept.",
                   "它可以做什么、现在还剩多少。密钥不会被保存。";
    your_key_may: "What it may do. It is not kept. What it has left is shown on the page at the API's own address.",
                  "它可以做什么。密钥不会被保存。剩余用量请在 API 自身地址的页面上查看。";
    show: "Show", "查看";
    key_is_known(prefix): "Key {prefix}, as the center knows it now.", "密钥 {prefix}，为控制中心当前所知的状态。";
    left_at_gates: "What is left of these limits is not known here. The page at the API's own address shows it.",
                   "这些限额的剩余量此处未知。请在 API 自身地址的页面上查看。";
    your_limits: "Limits of your key", "您的密钥的限额";
    only_on(what): "on {what}", "用于 {what}";
    key_is(prefix): "Key {prefix}, as of now at the gate that answered.", "密钥 {prefix}，为应答网关的当前状态。";
    key_unknown: "This is not a key of this API, or not any more.", "这不是此 API 的密钥，或已失效。";
    left(n, of): "{n} of {of} left", "剩余 {n} / {of}";
    full_in(s): "full again in {s} s", "{s} 秒后恢复满额";
    no_left: "No limit counts this key.", "没有限额对此密钥计数。";
    operation: "Operation", "操作";
    may: "May", "可以";
    may_not: "May not", "不可以";
    depends: "Depends on the request", "取决于具体请求";
    not_known: "Not known now", "目前未知";

    ask: "Ask for access", "申请访问";
    ask_hint: "No account needed. You get a code; with it you fetch the key once, after approval.",
              "无需账户。您会得到一个代码；批准后可用它领取一次密钥。";
    who: "Who are you?", "您是谁？";
    who_hint: "Name, and where to reach you. At most 200 bytes.", "姓名及联系方式。最多 200 字节。";
    what_for: "What for?", "用途是什么？";
    what_for_hint: "At most 500 bytes. Read by the people who run this API.", "最多 500 字节。由此 API 的管理者阅读。";
    per_day: "Requests a day", "每天的请求数";
    per_day_hint: "From 1 to 1,000,000,000", "1 到 1,000,000,000";
    ask_button: "Ask", "申请";
    wrong_who: "Write one line of at most 200 bytes.", "请填写一行，最多 200 字节。";
    wrong_what_for: "Write a text of at most 500 bytes.", "请填写说明，最多 500 字节。";
    wrong_per_day: "Write a whole number from 1 to 1,000,000,000.", "请填写 1 到 1,000,000,000 的整数。";
    wrong: "Something in the form is not right. Nothing was sent.", "表单有误，未发送任何内容。";

    fetch: "Fetch your key", "领取密钥";
    fetch_hint: "The code that you got when you asked. The key is shown once.", "申请时得到的代码。密钥只显示一次。";
    code: "Code", "代码";
    fetch_button: "Fetch", "领取";

    asked_head: "Your request is on its way", "申请已提交";
    asked: "Keep this code. Once you are approved, it fetches your key on this page. Nobody else has it, and it \
            is not shown again.",
           "请保存此代码。批准后，可在本页用它领取密钥。此代码只有您有，不会再次显示。";
    made_head: "This is your key", "这是您的密钥";
    made: "It is shown this once, and kept nowhere. Store it in a safe place now.",
          "它只显示这一次，不保存在任何地方。请立即妥善保存。";
    made_plan(plan): "Its plan is {plan}.", "它的方案是 {plan}。";
    refused_head: "Not done", "未完成";
    too_many(s): "Too many tries from your address. Try again in {s} s.", "来自您地址的尝试过多。请在 {s} 秒后重试。";
    full: "No more requests are taken now: too many wait for an answer. Try again later.",
          "等待处理的申请太多，目前不再接收。请稍后重试。";
    invalid: "This cannot be asked here.", "无法在此申请。";
    unknown: "This code does not give a key. Check that it is whole. A code that was used is spent.",
             "此代码无法领取密钥。请检查是否完整；已使用的代码会失效。";
    pending: "Nobody has decided yet. Keep the code and try again later.", "尚未处理。请保留代码，稍后再试。";
    declined: "Your request was declined.", "您的申请被拒绝。";
    unavailable: "Whether it was done cannot be told now. Try again. You are not declined.",
                 "目前无法得知结果。请重试；这并非拒绝。";
    footer: "Served by Keepgate. This page says the same to everyone without a key.",
            "由 Keepgate 提供。没有密钥时，本页对所有人显示相同内容。";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_there_in_each_language() {
        let han = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        let same = ["per_day_hint"];
        for (name, english, chinese) in ALL {
            assert!(!english.is_empty() && !han(english), "{name}");
            assert!(han(chinese) || same.contains(name), "{name} is not translated: {chinese}");
            for argument in english.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
                assert!(chinese.contains(&format!("{{{}}}", argument.0)), "{name}");
            }
        }
    }

    #[test]
    fn the_browser_chooses_the_language() {
        for (accepted, lang) in [
            ("", Lang::English),
            ("fr", Lang::English),
            ("zh-CN,zh;q=0.9,en;q=0.8", Lang::Chinese),
            ("en-US, zh;q=0.9", Lang::English),
            ("en;q=0.1, ZH-hans;q=0.2", Lang::Chinese),
            ("zh;q=0", Lang::English),
            ("zh;q=x,en;q=0.5", Lang::English),
        ] {
            assert_eq!(Lang::accepted(accepted), lang, "{accepted}");
        }
    }
}
