//! The texts. English first, then simplified Chinese.

use std::fmt::Display;

use super::Lang;

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
    // Around each page.
    keepgate: "Keepgate", "Keepgate";
    pages: "Pages", "页面";
    skip: "Skip to content", "跳到正文";
    overview: "Overview", "概览";
    why: "Why?", "为什么?";
    access: "Access", "访问权限";
    policies: "Policies", "策略";
    callers: "Callers", "调用方";
    history: "History", "历史";
    service: "service", "服务";
    services: "Services", "服务";
    service_head: "Service", "服务";
    change_service: "Change the service", "更换服务";
    other_service: "Another service", "其他服务";
    no_service: "none", "无";
    no_service_yet: "There is no service yet", "还没有服务";
    no_service_yet_more: "Make one with keepgate apply, or with keepgate service create.",
        "用 keepgate apply 或 keepgate service create 创建一个。";
    settings: "Settings", "设置";
    theme: "Theme", "主题";
    theme_system: "System", "跟随系统";
    theme_light: "Light", "浅色";
    theme_dark: "Dark", "深色";
    language: "Language", "语言";
    save: "Save", "保存";
    show: "Show", "显示";
    cancel: "Cancel", "取消";
    search: "Search", "搜索";
    none: "none", "无";
    not_known: "not known", "未知";
    not_known_word: "Not known", "未知";
    first_page: "First page", "第一页";
    next_page: "Next page", "下一页";
    more_than(n): "There are more than these {n}.", "不止这 {n} 个。";
    of_many(n, all): "{n} of {all} are shown.", "共 {all} 个,显示了 {n} 个。";
    role_admin: "admin", "管理员";
    role_editor: "editor", "编辑者";
    role_viewer: "viewer", "查看者";

    // Live.
    live: "Live.", "实时。";
    not_live(at, age): "Not live since {at}. What you see is {age} s old.", "自 {at} 起不再实时。所见内容已有 {age} 秒。";
    session_ended: "Your session has ended. Sign in again to go on.", "会话已结束。请重新登录后继续。";
    revision_is(n): "Revision {n}", "修订 {n}";
    revision_short(n): "revision {n}", "修订 {n}";
    at_revision(n): "At revision {n}", "修订 {n} 时";

    // Time.
    now: "now", "现在";
    seconds(n): "{n} s", "{n} 秒";
    minutes(n): "{n} min", "{n} 分钟";
    hours(n): "{n} h", "{n} 小时";
    days_long(n): "{n} days", "{n} 天";
    span_ago(span): "{span} ago", "{span}前";
    minutes_ago_long(n): "{n} min ago", "{n} 分钟前";
    an_hour_ago: "60 min ago", "60 分钟前";
    when: "When", "时间";

    // Signing in and out.
    sign_in: "Sign in", "登录";
    sign_out: "Sign out", "退出登录";
    sign_in_with(name): "Sign in with {name}", "通过 {name} 登录";
    sign_in_stale: "This sign-in is not yours, or too old", "此次登录不是由您发起的,或已过期";
    sign_in_stale_why: "It was begun in another browser, under another name of this center, or more than 10 minutes ago. Nobody was signed in. Begin again here.",
        "它是在其他浏览器中、通过本控制中心的其他名称发起的,或者已超过 10 分钟。没有人登录。请在此重新开始。";
    sign_in_away(name): "{name} gives no answer, so it cannot be told who you are", "{name} 没有给出应答,因此无法判断您是谁";
    sign_in_away_why: "Try again in a moment, or sign in with a token. The log of the center says what is wrong.",
        "请稍后重试,或使用令牌登录。控制中心的日志说明了原因。";
    sign_in_busy: "Too many people sign in at the same time", "同时登录的人太多";
    sign_in_refused(error): "The identity provider has refused the sign-in: {error}", "身份提供方拒绝了登录:{error}";
    sign_in_again: "Nobody was signed in. Try again, or ask those who run the identity provider.",
        "没有人登录。请重试,或询问身份提供方的管理者。";
    sign_in_token: "What the identity provider sent is not accepted", "身份提供方发送的内容未被接受";
    sign_in_name(claim): "The identity provider does not say who you are: it sends no usable claim {claim}",
        "身份提供方没有说明您是谁:它没有发送可用的声明 {claim}";
    sign_in_unverified: "The identity provider has not verified your email address", "身份提供方尚未验证您的电子邮件地址";
    sign_in_no_role(name): "You are {name}, and have no role here", "您是 {name},在此没有角色";
    sign_in_no_role_why: "Ask those who run this center for a role, then sign in again.", "请向本控制中心的管理者申请角色,然后重新登录。";
    see_log: "Nobody was signed in. The log of the center says why.", "没有人登录。控制中心的日志说明了原因。";
    go_on: "Go on", "继续";
    token: "Token", "令牌";
    token_hint: "It begins with kgt_. The first start of a center writes one to admin.token in its data directory.",
        "以 kgt_ 开头。控制中心首次启动时,会在其数据目录的 admin.token 中写入一个。";
    wrong_token: "This token does not open the console: it is mistyped, was revoked, or has expired.",
        "此令牌无法打开控制台:输入有误、已被撤销或已过期。";
    wrong_role(role): "A token of role {role} reads nothing here. Use one of role viewer, editor or admin.",
        "角色为 {role} 的令牌无权在此读取。请使用 viewer、editor 或 admin 角色的令牌。";
    too_many_wrong(n): "Too many wrong tokens came from your address. Try again in {n} seconds.",
        "来自您地址的错误令牌过多。请在 {n} 秒后重试。";
    sessions_full: "Too many people are signed in. Try again later, or sign out elsewhere.",
        "登录的人过多。请稍后重试,或在别处退出登录。";
    expired: "Your session has ended", "会话已结束";
    expired_why: "Nothing was sent. Sign in, and you find the page with what you wrote.",
        "没有发送任何内容。登录后会回到该页面,您所写的内容仍在。";
    signed_in: "You are signed in", "您已登录";
    signed_in_kept: "Nothing was sent yet. What you wrote is kept.", "尚未发送任何内容。您所写的内容已保留。";
    back_to_page: "Back to the page", "回到页面";
    not_signed_out: "You are still signed in", "您仍处于登录状态";
    forged: "This form was refused", "此表单被拒绝";
    forged_why: "It was not made by a page of this center for you, or it is from before you signed in. Nothing was changed. Open the page again, and send it from there.",
        "它不是本控制中心的页面为您生成的,或者是在您登录之前生成的。没有任何更改。请重新打开页面再提交。";
    to_overview: "To the overview", "前往概览";
    try_again: "Try again", "重试";

    // Refusals.
    refused_role: "Your token may not do this", "您的令牌无权这样做";
    refused_missing: "There is no such thing", "没有这样的对象";
    refused_stale: "Somebody changed it meanwhile", "其间有人更改了它";
    refused_invalid: "This cannot be done as it is written", "按所写内容无法执行";
    refused_many: "Too many requests at once", "同时请求过多";
    refused_other: "The center cannot do this now", "控制中心现在无法执行";
    only_reading: "Your token may read this, and not change it.", "您的令牌只能读取,不能更改。";
    text_kept: "Nothing was sent. What you wrote is kept.", "没有发送任何内容。您所写的内容已保留。";
    changed_as(n): "Done, as revision {n}.", "已完成,修订 {n}。";
    wrong_days(text): "days: expected a whole number from 1 to 36,500, got `{text}`", "天数:应为 1 到 36,500 的整数,实为 `{text}`";
    not_an_entity(what, text): "{what}: expected an entity such as role::\"staff\", got `{text}`",
        "{what}:应为实体,例如 role::\"staff\",实为 `{text}`";

    // Overview.
    wrong_now: "Wrong now", "当前问题";
    things(n): "{n} in all. The most urgent is first.", "共 {n} 项,最紧急的在前。";
    nothing_wrong: "Nothing is wrong that Keepgate can see", "Keepgate 没有发现问题";
    looked_at(n): "It looked at the center, at {n} gates, and at who makes the requests.",
        "检查了控制中心、{n} 个网关以及请求的来源。";
    center_word: "Center", "控制中心";
    center_is(address): "The center at {address} is not ready:", "{address} 的控制中心未就绪:";
    gate_silent(name, span): "{name} has not been heard for {span}.", "{name} 已有 {span} 没有消息。";
    gate_silent_more: "It decides from its replica while that is young enough. Routes whose max_age is over answer 503 there, not 403.",
        "在副本足够新时,它仍据副本决策。超过 max_age 的路由会返回 503,而不是 403。";
    gate_behind(name, n): "{name} is {n} revisions behind.", "{name} 落后 {n} 个修订。";
    gate_behind_more: "What it decides rests on an older state. keepgate status says more.", "它依据较旧的状态决策。keepgate status 有更多说明。";
    show_gates: "Show the gates", "查看网关";
    at_risk: "At risk", "有风险";
    crawl: "Crawl", "爬取";
    walks(service): "walks {service}", "正在遍历 {service}";
    crawl_rate(rate, share): "{rate} requests a second, {share} refused.", "每秒 {rate} 个请求,{share} 被拒绝。";
    crawl_ids(n): "About {n} different ids.", "约 {n} 个不同的标识。";
    crawl_plan(plan): "The plan {plan} is the smallest that fits.", "套餐 {plan} 是足够大的最小套餐。";
    crawl_no_plan: "No plan is large enough for it.", "没有足够大的套餐。";
    show_caller: "Show the callers", "查看调用方";
    offer_plan: "Make a key with this plan", "用此套餐创建密钥";
    services_rest: "A rate is of the last minute. 403, 429 and 503 are never added up.", "速率为最近一分钟的值。403、429 与 503 从不相加。";
    requests: "Requests", "请求";
    limited: "Limited (429)", "限流 (429)";
    denied: "Denied (403)", "拒绝 (403)";
    undecided: "Cannot decide (503)", "无法决策 (503)";
    now_per_second: "Now, /s", "当前,每秒";
    per_second: "/s", "/秒";
    per_second_long: "A second", "每秒";
    gates_heard: "Gates heard", "有消息的网关";
    heard_of(n, all): "{n} of {all}", "{n} / {all}";
    last_hour_of(service): "{service}, last 60 minutes", "{service},最近 60 分钟";
    rests_on(n, all): "Rests on {n} of {all} gates. Each chart has its own scale.", "依据 {n} / {all} 个网关。各图刻度独立。";
    in_the_hour(n): "{n} in the minutes that are known", "在已知的分钟内 {n} 个";
    no_gate_told: "no gate has told it in the last hour", "最近一小时没有网关报告";
    none_is_a_denial: "; none is a denial", ";都不是拒绝";
    chart_label(title, highest, now): "{title} a second, last 60 minutes: highest {highest}, now {now}",
        "每秒{title},最近 60 分钟:最高 {highest},现在 {now}";
    as_table: "As a table", "以表格显示";
    gates: "Gates", "网关";
    gate: "Gate", "网关";
    state: "State", "状态";
    release: "Release", "版本";
    revision: "Revision", "修订";
    age: "Age", "时龄";
    age_is: "Age: an upper bound of how old the permissions are that a gate decides by.", "时龄:网关决策所依据权限的陈旧程度上限。";
    connected: "Connected for", "已连接";
    follows: "Follows", "同步中";
    not_heard(span): "Not heard, {span}", "{span} 无消息";
    never_heard: "Never heard", "从未有消息";
    all_services: "all", "全部";
    behind(n): "{n} behind", "落后 {n}";
    no_gate: "No gate follows this center", "没有网关跟随本控制中心";
    no_gate_more: "Start one: keepgate gate --center URL --token-file FILE --service NAME --upstream URL.",
        "启动一个:keepgate gate --center URL --token-file FILE --service NAME --upstream URL。";
    connections: "Connections", "连接";
    to_upstreams: "upstream", "上游";
    reuse: "Reuse", "复用";
    no_requests: "no request", "无请求";
    ports_left: "Ports left", "剩余端口";
    free_of(free, all): "{free} of {all}", "{all} 个中剩 {free} 个";
    doctor: "Host's ports", "主机端口";
    healthy: "Healthy", "健康";
    exhausted: "Exhausted", "已耗尽";
    not_ports: "Other than ports", "非端口问题";
    undecided_doctor: "Cannot tell", "无法判断";
    doctor_says(gate): "On the host of {gate}:", "{gate} 所在主机:";
    ask_doctor: "Run keepgate doctor on that host: it says who holds the ports, and what to do.", "请在该主机上运行 keepgate doctor:它会说明谁占用端口以及如何处理。";
    gates_tell: "Connections of callers, and to upstreams. Reuse: requests of the last minute on a connection that had carried one before. Ports: toward the upstream address with the smallest part free. Gates say so every 10 seconds, from release 0.3 on.",
        "连接:调用方的连接,以及到上游的连接。复用:最近一分钟内在已用过的连接上发送的请求。端口:剩余比例最小的上游地址。网关从 0.3 版起每 10 秒报告一次。";

    // Why?
    question: "Question", "问题";
    principal: "Principal", "主体";
    principal_hint: "such as user::\"bob\"", "例如 user::\"bob\"";
    action: "Action", "操作";
    action_hint: "such as GET", "例如 GET";
    resource: "Resource", "资源";
    resource_hint: "such as route::\"/orders/{id}\"", "例如 route::\"/orders/{id}\"";
    context: "Context", "上下文";
    context_hint: "JSON; empty: none", "JSON;空:无";
    ask_why: "Decide, and say why", "决策并说明原因";
    ask_a_question: "Ask about one request", "就一个请求提问";
    ask_a_question_more: "The answer names the policies that made it so, and what was missing.", "回答会给出起决定作用的策略,以及缺少什么。";
    allowed: "Allowed", "允许";
    is_denied: "Denied", "拒绝";
    cannot_decide: "Cannot decide", "无法决策";
    cannot_decide_sentence: "Nobody was denied: the policies cannot decide it now", "没有人被拒绝:策略现在无法决策";
    may: "may", "可以";
    may_not: "may not", "不可以";
    because_permit: "A policy permits it, and none forbids it.", "有策略允许,且没有策略禁止。";
    because_forbid: "A policy forbids it. No permit outweighs that.", "有策略禁止。任何允许都不能压倒禁止。";
    because_no_permit: "No policy permits it.", "没有策略允许。";
    at_revision_of(n, service): "Decided at revision {n} by the policies of {service}.", "在修订 {n} 由 {service} 的策略决定。";
    decided_by: "Decided by", "由以下策略决定";
    text_of(id): "Text of {id}", "{id} 的文本";
    missing: "What is missing", "缺少什么";
    missing_rest: "Policies that would have permitted it but for one part", "只差一处就会允许的策略";
    policy_errors: "Policies that failed", "求值失败的策略";
    policy_errors_rest: "They were skipped", "已跳过";
    as_of: "As of", "截至";
    as_of_hint: "a revision, or a time such as 2026-07-25T09:30:00Z; empty: now", "修订,或时间如 2026-07-25T09:30:00Z;空:现在";
    landed_at(at): "It landed on {at}.", "该修订于 {at} 生效。";
    decided_for(at): "Decided for {at}.", "按 {at} 的时间决策。";
    ask_before(n): "Ask at revision {n}", "在修订 {n} 时提问";
    ask_now: "Ask now", "现在提问";
    show_revision(n): "What revision {n} changed", "修订 {n} 更改了什么";
    principal_word: "principal", "主体";
    resource_word: "resource", "资源";
    policy_word: "policy", "策略";
    is_not_in: "is not in", "不属于";
    give_this(role): "Give {role}\u{2026}", "授予 {role}\u{2026}";
    way_of_principal: "From the principal to what the policy names", "从主体到策略所指的实体";
    way_of_resource: "From the resource to what the policy names", "从资源到策略所指的实体";
    condition_values: "What its condition saw", "条件所见的值";
    others: "Others that came near", "其他接近的策略";
    others_rest: "Forbids, and permits that were not needed", "未匹配的禁止,以及不需要的允许";
    permits: "Permits", "允许";
    forbids: "Forbids", "禁止";
    of_service(service): "of service {service}", "属于服务 {service}";
    of_directory: "of the directory", "属于目录";
    by_membership: "member", "成员关系";
    by_entity: "parent", "上级实体";
    by_request: "by its path", "由其路径";
    since_word: "since", "自";
    until_word: "until", "至";
    in_word: "of", "属于";
    where_word: "where", "当";

    // Access.
    questions: "Questions", "问题";
    roles_and_grants: "Roles and grants", "角色与授权";
    who_can: "Who can do this?", "谁可以这样做?";
    what_can: "What can she do?", "她可以做什么?";
    who_is_in_role: "Who is in this role?", "谁属于此角色?";
    ask_access: "Ask who has access", "查询谁有访问权限";
    ask_access_more: "The answer names what gives it, since when, and who gave it.", "回答会给出来源、起始时间以及授予者。";
    action_hint_any: "such as GET; empty: any", "例如 GET;空:任何";
    of_type: "Only of type", "仅限类型";
    of_type_hint: "such as user; empty: all but roles", "例如 user;空:除角色外的所有类型";
    may_do: "May do", "可以执行";
    how: "How", "途径";
    given_by: "Given by", "授予者";
    effect: "Effect", "效果";
    anyone: "anyone", "任何人";
    any_of_type(kind): "any {kind}", "任何 {kind}";
    any_other: "any other", "其他任何操作";
    something: "something", "某些操作";
    conditional: "It depends on the request", "取决于请求";
    where_holds: "Only where it holds:", "仅当成立时:";
    unless_holds: "Unless it holds:", "除非成立:";
    who_can_do(action, resource): "Who can do {action} on {resource}", "谁可以对 {resource} 执行 {action}";
    forbids_count: "Forbids are taken into account.", "已计入禁止策略。";
    what_can_do(principal): "What applies to {principal}", "适用于 {principal} 的策略";
    what_can_rest: "Policies by name. Forbids outweigh permits.", "按名称列出的策略。禁止优先于允许。";
    who_is_in_this(role): "Who is in {role}", "谁属于 {role}";
    roles_in_roles: "By roles in the role, too.", "包括通过嵌套角色。";
    nobody_can: "Nothing is found", "没有找到";
    nobody_can_more: "In the state that was asked, no policy gives it to anybody that is known.", "在所查询的状态中,没有策略将其授予任何已知主体。";
    nothing_so_far_page: "The list goes on: look at the next page.", "列表未完:请查看下一页。";
    all_as_csv: "All of it as CSV:", "全部导出为 CSV:";
    its_text: "Text", "文本";
    who_is_in: "Who is in which role", "谁属于哪个角色";
    member: "Member", "成员";
    members: "Members", "成员";
    role_head: "Role", "角色";
    role_hint: "such as staff, or role::\"staff\"", "例如 staff 或 role::\"staff\"";
    roles: "Roles", "角色";
    roles_rest: "Roles that have a description", "有说明的角色";
    until: "Until", "截止";
    no_end: "until it is taken", "直到被收回";
    has_ended: "Ended", "已结束";
    changed_at: "Revision", "修订";
    brought_by: "Brought by", "来源";
    by_files: "files", "文件";
    by_command: "command", "命令";
    by_import: "import", "导入";
    nobody_in: "No membership matches", "没有匹配的成员关系";
    nobody_in_more: "Search for another member or role, or give a role.", "搜索其他成员或角色,或授予角色。";
    no_role: "No role has a description", "没有带说明的角色";
    no_role_more: "Roles of files are in roles.toml. A role needs no description to have members.", "文件中的角色在 roles.toml。角色无需说明也可以有成员。";
    give_role: "Give a role\u{2026}", "授予角色\u{2026}";
    give_to(role, member): "Give {role} to {member}", "将 {role} 授予 {member}";
    take_from(role, member): "Take {role} from {member}", "从 {member} 收回 {role}";
    take: "Take\u{2026}", "收回\u{2026}";
    days: "For how many days", "多少天";
    days_hint: "empty: until it is taken", "空:直到被收回";
    show_changes: "Show what changes", "显示更改内容";
    nothing_changes_yet: "Nothing changes yet.", "尚未更改。";
    nothing_by_grants: "Nothing that names it was found. Ask Why? before and after.", "没有找到涉及它的内容。更改前后请用“为什么?”查询。";
    preview_note: "This is what policies and grants say of it. What other policies make of one request, Why? says.",
        "这是策略与授权对它的说明。其他策略对某个请求的影响,请用“为什么?”查询。";
    grant_of(service, words): "{service}: {words}", "服务 {service}:{words}";
    not_looked_at(service): "{service}: what it gives there is not known.", "{service}:在该服务中给予什么未知。";
    more_not_looked_at(service): "{service}: it has more policies than were looked at.", "{service}:策略过多,未全部查看。";
    holding_words(action, resource, item): "{action}, {resource}, by {item}", "{action},{resource},由 {item}";
    only_where(words, condition): "{words}, where {condition}", "{words},当 {condition}";
    grant_words(actions, resource): "{actions} on {resource}", "对 {resource} 执行 {actions}";
    any_action: "any action", "任何操作";
    any_resource: "any resource", "任何资源";
    grants: "Grants", "授权";
    grants_of(service): "Grants of {service}", "{service} 的授权";
    lets_do: "Lets do", "允许";
    no_grant: "There is no grant", "没有授权";
    no_grant_more: "A grant lets a role or a principal do actions on a resource.", "授权允许角色或主体对资源执行操作。";
    new_grant: "New grant\u{2026}", "新建授权\u{2026}";
    actions: "Actions", "操作";
    actions_hint: "with commas between; empty: any", "以逗号分隔;空:任何";
    grant_resource_hint: "such as route::\"/orders\"; empty: any", "例如 route::\"/orders\";空:任何";
    grant_to(principal): "Give this to {principal}", "授予 {principal}";
    ungrant_from(principal): "Take this from {principal}", "从 {principal} 收回";

    // Policies.
    routes: "Routes", "路由";
    route: "Route", "路由";
    limits: "Limits", "限流";
    limit: "Limit", "限流规则";
    hour_asked: "Requests, last hour", "最近一小时请求";
    hour_limited: "Refused (429), last hour", "最近一小时拒绝 (429)";
    in_shadow: "shadow: would be refused", "影子模式:本应拒绝";
    other_limits: "Other limits of the last hour", "最近一小时的其他限流";
    other_limits_rest: "Of plans, and the defaults of gates.", "来自套餐和网关默认值。";
    policies_as_text: "Policies, Cedar text", "策略,Cedar 文本";
    over_revision(n): "Draft over revision {n}", "基于修订 {n} 的草稿";
    check_and_preview: "Check and preview", "检查并预览";
    save_revision: "Save as one revision", "保存为一个修订";
    save_over(n): "Save over revision {n}", "覆盖修订 {n} 保存";
    saving_needs: "Saving needs 0 errors.", "保存要求 0 个错误。";
    saved_as(n): "Saved as revision {n}.", "已保存为修订 {n}。";
    conflict: "Somebody else has changed these policies. Nothing was saved.", "有人更改了这些策略。没有保存任何内容。";
    conflict_more(before, now): "Your text is kept. It was made over revision {before}; the policies were changed at revision {now}. Both are shown below. Take over what you want to keep: saving now replaces the newer text.",
        "您的文本已保留。它基于修订 {before};策略在修订 {now} 被更改。两者都显示在下面。请合并需要保留的内容:现在保存会替换较新的文本。";
    yours_and_theirs: "From what is stored now to your text", "从当前存储内容到您的文本";
    yours_and_theirs_rest: "Lines with a minus are theirs, with a plus yours.", "减号行为他人的,加号行为您的。";
    errors_and_warnings(errors, warnings): "Errors: {errors}, warnings: {warnings}", "{errors} 个错误,{warnings} 个警告";
    not_checked: "Not checked", "未检查";
    not_checked_more: "Check the text to see what Cedar says of it, and what would change.", "检查文本即可看到 Cedar 的诊断以及会发生的更改。";
    cedar_said: "From Cedar's validator", "来自 Cedar 校验器";
    nothing_to_say: "Cedar has nothing to say about this text.", "Cedar 对此文本没有意见。";
    error: "Error", "错误";
    warning: "Warning", "警告";
    line(n): "line {n}", "第 {n} 行";
    line_column(line, column): "line {line}, column {column}", "第 {line} 行,第 {column} 列";
    theirs: "What is stored now", "当前存储的内容";
    what_would_change: "What would change", "会更改什么";
    what_would_change_rest: "Nothing is saved yet.", "尚未保存。";
    changes_nothing: "Nothing would change.", "不会有任何更改。";
    created: "created", "创建";
    updated: "updated", "更新";
    deleted: "deleted", "删除";
    differences: "Differences, line by line", "逐行差异";
    no_difference: "Both are the same.", "两者相同。";
    access_gained(n): "Newly allowed, as far as it can be named: {n}", "新允许(就可列出的部分):{n}";
    access_lost(n): "Newly denied: {n}", "新拒绝:{n}";
    routes_rest: "They come from routes.toml or the OpenAPI document.", "来自 routes.toml 或 OpenAPI 文档。";
    the_route: "the route", "该路由";
    as_service: "the service's", "同服务";
    max_age: "Max. age", "最大时龄";
    cost: "Cost", "成本";
    no_route: "There is no route", "没有路由";
    no_route_more: "Without routes a gate refuses every request, unless unmatched = \"forward\".", "没有路由时,网关拒绝所有请求,除非 unmatched = \"forward\"。";
    limits_rest: "For every method unless it says otherwise.", "除非另有说明,适用于所有方法。";
    counted_by: "Counted by", "计数依据";
    applies_to: "Applies to", "适用于";
    every_request: "every request", "所有请求";
    rate: "Rate", "速率";
    burst: "Burst", "突发";
    at_once: "At once", "并发";
    no_limit: "There is no limit of its own", "没有自己的限流规则";
    no_limit_more: "The defaults of the gate apply. Limits are in limits.toml.", "适用网关的默认值。限流规则在 limits.toml。";
    plan: "Plan", "套餐";
    plans: "Plans", "套餐";
    rules: "Rules", "规则";
    no_plan: "There is no plan", "没有套餐";
    no_plan_more: "A plan is a named set of limits that an API key belongs to. Plans are in limits.toml.", "套餐是 API 密钥所属的一组具名限流规则。套餐在 limits.toml。";

    // Plans, rule by rule.
    no_rule_in_plan: "It has no rule: the limits of all callers apply.", "没有规则:适用所有调用方的限流。";
    comma: ", ", ",";
    each_second(n): "{n} per second", "每秒 {n} 个";
    each_minute(n): "{n} per minute", "每分钟 {n} 个";
    each_hour(n): "{n} per hour", "每小时 {n} 个";
    each_day(n): "{n} per day", "每天 {n} 个";
    each_span(n, span): "{n} per {span}", "每 {span} {n} 个";
    rule_burst(n): "burst {n}", "突发 {n}";
    rule_at_once(n): "{n} at once", "并发 {n}";
    by_address: "per address", "按地址";
    by_principal: "per principal", "按主体";
    by_api_key: "per key", "按密钥";
    by_header(name): "per value of {name}", "按 {name} 的值";
    rule_on(what): "on {what}", "用于 {what}";
    rule_of(what): "only for {what}", "仅限 {what}";
    rule_cost(n): "{n} tokens a request", "每个请求消耗 {n} 个令牌";
    rule_costs(n, what): "{n} tokens on {what}", "{what} 消耗 {n} 个令牌";
    rule_shadow: "counts only and refuses nothing", "只计数,不拒绝";

    // Callers.
    caller: "Caller", "调用方";
    top_callers: "Top callers", "主要调用方";
    top_rests(seconds, n, all, oldest): "Last {seconds} s at {n} of {all} gates, oldest report {oldest} ago.",
        "最近 {seconds} 秒,{n} / {all} 个网关,最早的报告在 {oldest}前。";
    no_gate_heard: "No gate was heard", "没有网关的消息";
    no_gate_heard_more: "So nobody knows who makes the requests. That is not the same as no requests.", "因此不知道请求来自谁。这不等于没有请求。";
    nobody_asked: "Nobody is listed here", "此处没有条目";
    nobody_asked_more: "The gates that were heard counted nobody of this sort.", "有消息的网关没有统计到此类调用方。";
    principals: "Principals", "主体";
    addresses: "Addresses", "地址";
    address: "Address", "地址";
    user_agents: "User agents", "用户代理";
    user_agent: "User agent", "用户代理";
    share: "Share", "占比";
    refused: "Refused", "被拒绝";
    route_most_asked: "Route most asked", "最常请求的路由";
    first_seen: "First seen", "首次出现";
    at_least(n): "at least {n}", "至少 {n}";
    unlisted(n): "Each of those who are not listed made at most {n} requests.", "未列出的每个调用方最多发出 {n} 个请求。";
    key: "Key", "密钥";
    keys: "Keys", "密钥";
    no_key: "There is no API key", "没有 API 密钥";
    no_key_more: "Make one beside, for a principal.", "可在旁边为主体创建一个。";
    new_key: "New key", "新建密钥";
    new_key_rest: "It is shown once.", "仅显示一次。";
    make_key: "Make the key", "创建密钥";
    note: "Note", "备注";
    key_made: "The key was made", "密钥已创建";
    key_once(n): "It is good from revision {n} on. Copy it now: it is not shown again.", "自修订 {n} 起有效。请立即复制:不会再次显示。";
    revoke: "Revoke\u{2026}", "撤销\u{2026}";
    revoke_key(key): "Revoke {key}", "撤销 {key}";
    revoke_key_takes(key): "Callers that show {key} are not identified any more: 401.", "出示 {key} 的调用方将不再被识别:401。";
    revoke_key_note: "It takes effect at each gate within moments. It cannot be undone; make a new key instead.", "片刻内在每个网关生效。无法撤回;请改为创建新密钥。";
    key_revoked(n): "The key was revoked as revision {n}.", "密钥已撤销,修订 {n}。";
    access_requests: "Requests for access", "访问申请";
    access_requests_rest: "Asked on the page for callers. What waits is decided here.", "在面向调用方的页面上提出。待处理的申请在此决定。";
    access_request: "Request for access", "访问申请";
    no_request: "No request waits", "没有待处理的申请";
    no_request_more: "Callers ask on the gate's page, /.keepgate/api; a 429 leads there. If the service says center = true in [callers_page], they also ask at /apis/NAME of this center.",
        "调用方在网关页面 /.keepgate/api 上申请;429 会引导至此。如果服务在 [callers_page] 中设置 center = true,也可在本控制中心的 /apis/NAME 上申请。";
    more_requests: "There are more. Decide these first, or use `keepgate request list`.", "还有更多。请先处理这些,或使用 `keepgate request list`。";
    asked_at: "Asked", "申请时间";
    who_asks: "Who asks", "申请者";
    what_for: "What for", "用途";
    per_day: "Requests a day", "每日请求数";
    look_at_request: "Decide\u{2026}", "处理\u{2026}";
    request_pending: "waits", "待处理";
    request_approved: "approved, key not fetched", "已批准,密钥未领取";
    request_declined: "declined", "已拒绝";
    request_fetched: "key fetched", "密钥已领取";
    request_unchecked: "These are the asker's own words. Nobody has checked them.", "以下是申请者自己的说法,未经核实。";
    what_it_says: "What it says", "内容";
    decided_by_token: "Decided by token", "处理者(令牌)";
    approve_request: "Approve", "批准";
    approve_rest: "The asker can then fetch a key with its code, once. It is made at that moment.", "申请者随后可用其代码领取一次密钥;密钥在那一刻创建。";
    decline_request: "Decline", "拒绝";
    decline_rest: "The asker is told so when it shows its code.", "申请者出示代码时会得知。";
    request_was_approved: "The request was approved. The asker can fetch its key.", "申请已批准。申请者可以领取密钥。";
    request_was_declined: "The request was declined.", "申请已拒绝。";

    // History.
    revisions: "Revisions", "修订";
    kept_since(n): "The newest first. States are kept from revision {n} on.", "最新的在前。自修订 {n} 起的状态可查。";
    what_is_looked_for: "Look for", "查找";
    who: "Who", "谁";
    who_hint: "the id of a token; empty: anyone", "令牌的 ID;空:任何人";
    kind: "Kind", "类型";
    any_kind: "any", "任何";
    item: "Item", "条目";
    item_hint: "its whole id, as the list shows it", "完整的 ID,如列表所示";
    filter: "Filter", "筛选";
    everything: "Show everything", "显示全部";
    only_of(service): "Only items of service {service}", "仅限服务 {service} 的条目";
    of_all_services: "All services and the directory", "所有服务与目录";
    nothing_so_far: "Nothing is found so far", "到目前为止没有找到";
    nothing_so_far_more: "Not all of the log was looked at. Older revisions may match.", "尚未查看全部日志。更早的修订可能匹配。";
    look_further: "Look further back", "继续向前查找";
    no_revision: "No revision matches", "没有匹配的修订";
    no_revision_more: "The whole log was looked at. Look for another item, or for everything.", "已查看全部日志。请查找其他条目或显示全部。";
    and_more(n): "and {n} more", "以及另外 {n} 项";
    newest: "Newest", "最新";
    older: "Older", "更早";
    not_a_revision(text): "expected the number of a revision, got `{text}`", "应为修订的编号,实为 `{text}`";
    revision_before: "The revision before", "上一个修订";
    revision_after: "The revision after", "下一个修订";
    compare_with_now: "Compare the state after it with now", "将其后的状态与现在比较";
    ask_why_then: "Ask Why? in the state after it", "在其后的状态用“为什么?”提问";
    go_back: "Go back", "回退";
    back_is_to_a_state: "Going back restores a whole state. It undoes everything that was changed after that state; nothing undoes one revision alone and keeps later ones.",
        "回退会恢复一个完整的状态,并撤销该状态之后的所有更改;无法只撤销某一个修订而保留之后的修订。";
    back_before(n): "Go back to before {n}\u{2026}", "回退到 {n} 之前\u{2026}";
    back_to(n): "Go back to after {n}\u{2026}", "回退到 {n} 之后\u{2026}";
    back_undoes(after, before): "Revisions that are undone: to after it {after}, to before it {before}, this one included.",
        "将撤销的修订:回退到其后 {after} 个,回退到其前 {before} 个(包括此修订)。";
    back_of_newest: "This is the newest revision, so going back to before it undoes it alone.", "这是最新的修订,因此回退到它之前只撤销它。";
    too_old(n): "One can go back to revision {n} and later ones: older states are not kept.", "可以回退到修订 {n} 及之后的修订:更早的状态未保留。";
    to_which_state: "To which state", "回退到哪个状态";
    state_hint: "a revision, or a time such as 2026-07-25T09:30:00Z", "修订,或时间如 2026-07-25T09:30:00Z";
    state_hint_now: "a revision or a time; empty: now", "修订或时间;空:现在";
    name_a_state: "Name a state", "请指定状态";
    name_a_state_more: "A state is the number of a revision, or a time.", "状态是修订的编号,或一个时间。";
    to_history: "To the history", "前往历史";
    back_to_state(n): "Back to the state of revision {n}", "回退到修订 {n} 的状态";
    gives_and_takes: "What it gives and takes", "授予与收回的内容";
    gives: "gives", "授予";
    takes: "takes", "收回";
    no_access_named: "No change of access can be named. Why? tells more, asked before and after.", "没有可列出的访问权限变化。更改前后请用“为什么?”查询。";
    changes_nothing_back: "What is stored is as it was in that state.", "当前存储的内容与该状态相同。";
    conflicts_are(n): "It would give back what was taken away since: {n}", "它会归还此后被收回的内容:{n} 项";
    conflicts_more: "Somebody took these away after that state. They are given back only if you say so.", "有人在该状态之后收回了这些内容。只有您确认后才会归还。";
    give_back_listed(n): "Give back what is listed, too ({n})", "同时归还这 {n} 项";
    conflicts_named(n): "Confirmed to be given back: {n}.", "已确认归还:{n} 项。";
    conflicts_too_many(n): "More than {n} would have to be confirmed. Go back to a later state, or only for one service.", "需要确认的超过 {n} 项。请回退到较晚的状态,或仅限一个服务。";
    show_next_conflicts(n): "Confirm, and show the other {n}", "确认,并显示其余 {n} 项";
    make_with_state(n): "Make a new revision with the state of {n}", "以 {n} 的状态创建新修订";
    nothing_is_erased: "Nothing is erased: the revisions since stay in the history.", "不会删除任何内容:之后的修订仍保留在历史中。";
    compare: "Compare", "比较";
    compare_two: "How two states differ", "两个状态的差异";
    compare_two_states: "Compare two states", "比较两个状态";
    two_states: "Two states", "两个状态";
    state_from: "From", "从";
    state_to: "To", "到";
    states_between(from, to): "From revision {from} to {to}", "从修订 {from} 到 {to}";
    items_differ(n): "Items that differ: {n}", "不同的条目:{n}";
    no_difference_more: "No item differs between these states.", "这两个状态之间没有不同的条目。";
    differences_of(kind, id): "How {kind} {id} changes", "{kind} {id} 的更改";
    no_text_difference: "How it differs is not shown.", "未显示其差异。";
    line_added: "added", "新增";
    line_removed: "removed", "删除";
    many: "many", "许多";
    counts(created, updated, deleted): "{created} created, {updated} updated, {deleted} deleted", "创建 {created},更新 {updated},删除 {deleted}";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Names that are the same everywhere.
    const SAME: [&str; 2] = ["keepgate", "comma"];

    fn arguments(text: &str) -> BTreeSet<&str> {
        let text = text.split("{{").flat_map(|part| part.split("}}"));
        text.flat_map(|part| part.split('{').skip(1))
            .filter_map(|part| part.split_once('}').map(|(name, _)| name))
            .collect()
    }

    /// A message without a text does not compile; this finds those that are not translated.
    #[test]
    fn every_message_is_there_in_each_language() {
        let han = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        for (name, english, chinese) in ALL {
            assert!(!english.is_empty() && !han(english), "{name}");
            let passes = han(chinese) || SAME.contains(name) || *chinese == "{n} / {all}";
            assert!(passes, "{name} is not translated: {chinese}");
            assert_eq!(arguments(english), arguments(chinese), "{name}");
        }
        let names: BTreeSet<&str> = ALL.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    /// The sources of the pages, in which no text may stand.
    const PAGES: [(&str, &str); 21] = [
        ("access", include_str!("../access.rs")),
        ("back", include_str!("../back.rs")),
        ("callers", include_str!("../callers.rs")),
        ("chart", include_str!("../chart.rs")),
        ("complete", include_str!("../complete.rs")),
        ("diff", include_str!("../diff.rs")),
        ("frame", include_str!("../frame.rs")),
        ("grants", include_str!("../grants.rs")),
        ("history", include_str!("../history.rs")),
        ("live", include_str!("../live.rs")),
        ("login", include_str!("../login.rs")),
        ("mod", include_str!("../mod.rs")),
        ("overview", include_str!("../overview.rs")),
        ("part", include_str!("../part.rs")),
        ("plans", include_str!("../plans.rs")),
        ("policies", include_str!("../policies.rs")),
        ("requests", include_str!("../requests.rs")),
        ("reviews", include_str!("../reviews.rs")),
        ("way", include_str!("../way.rs")),
        ("why", include_str!("../why.rs")),
        ("wrong", include_str!("../wrong.rs")),
    ];

    /// The texts within `html!` that are shown or read out: those that are no value of an attribute
    /// that only machines read.
    fn shown(source: &str) -> Vec<String> {
        let source = source.split("#[cfg(test)]").next().unwrap();
        let mut found = Vec::new();
        for block in source.split("html! {").skip(1) {
            let mut depth = 1;
            let mut before = String::new();
            let mut rest = block.chars().peekable();
            while let Some(c) = rest.next() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    '"' => {
                        let mut text = String::new();
                        while let Some(c) = rest.next().filter(|c| *c != '"') {
                            text.push(c);
                            if c == '\\' {
                                text.extend(rest.next());
                            }
                        }
                        let before = before.trim_end();
                        // A value, an argument or a comparison; of values only those people hear.
                        let named = before.rsplit([' ', '\n', '(']).next().unwrap_or_default();
                        let is_said =
                            ["aria-label=", "title=", "placeholder=", "alt="].contains(&named);
                        let is_code = before.ends_with(['=', '(', ',', '|', '.', '[', '&'])
                            || before.ends_with("name:")
                            || before.ends_with("action:")
                            || in_attribute(before);
                        if is_said || !is_code {
                            found.push(text);
                        }
                    }
                    _ => {}
                }
                before.push(c);
                if depth == 0 {
                    break;
                }
            }
        }
        found
    }

    /// Whether what comes next is within `name={ .. }`.
    fn in_attribute(before: &str) -> bool {
        let mut depth = 0;
        for (at, c) in before.char_indices().rev() {
            match c {
                '}' => depth += 1,
                '{' if depth > 0 => depth -= 1,
                '{' if before[..at].trim_end().ends_with('=') => return true,
                _ => {}
            }
        }
        false
    }

    #[test]
    fn no_page_has_a_text_of_its_own() {
        for (page, source) in PAGES {
            for text in shown(source) {
                let text = text.replace("\\u{b7}", "").replace("\\n", "");
                assert!(!text.chars().any(char::is_alphabetic), "{page}: `{text}`");
            }
        }
        // It finds what it is to find.
        for bad in [
            r#"html! { p { "Hello" } }"#,
            r#"html! { a href="/x" aria-label="Hello" {} }"#,
            r#"html! { @if x { "yes" } }"#,
        ] {
            assert!(shown(bad).iter().any(|text| text.chars().any(char::is_alphabetic)), "{bad}");
        }
    }
}
