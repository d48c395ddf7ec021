//! Rust from `proto/`: messages into `policy`, the client stub into `client`, the server stub
//! into `center`; and the messages of Envoy's services into `gate`. The result is committed, so nobody needs `protoc` or this task to build.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

const PROTO: &str = "keepgate/sync/v1/sync.proto";
const GENERATED: &str = "keepgate.sync.v1.rs";

const ENVOY: [&str; 2] =
    ["envoy/service/auth/v3/external_auth.proto", "envoy/service/ratelimit/v3/rls.proto"];
/// The packages of these, and of what they import.
const OF_ENVOY: [&str; 7] = [
    "envoy.config.core.v3.rs",
    "envoy.extensions.common.ratelimit.v3.rs",
    "envoy.service.auth.v3.rs",
    "envoy.service.ratelimit.v3.rs",
    "envoy.r#type.v3.rs",
    "google.protobuf.rs",
    "google.rpc.rs",
];

/// Writes the generated files; with `check`, fails if they differ instead.
///
/// # Errors
/// A proto file that does not compile, or, with `check`, a stale file.
pub fn run(root: &Path, check: bool) -> anyhow::Result<()> {
    let scratch = root.join("target/generate");
    std::fs::create_dir_all(&scratch).context("creating target/generate")?;
    for (crate_name, part) in
        [("policy", Part::Messages), ("client", Part::Client), ("center", Part::Server)]
    {
        generate(root, &scratch, part)?;
        keep(root, &scratch, crate_name, GENERATED, check)?;
    }
    generate_envoy(root, &scratch)?;
    for file in OF_ENVOY {
        keep(root, &scratch, "gate", file, check)?;
    }
    Ok(())
}

/// Puts a generated file into its crate, or compares it with the one there.
fn keep(
    root: &Path,
    scratch: &Path,
    crate_name: &str,
    file: &str,
    check: bool,
) -> anyhow::Result<()> {
    let kept: PathBuf = root.join("crates").join(crate_name).join("src/proto").join(file);
    let text = std::fs::read_to_string(scratch.join(file)).context("reading generated code")?;
    if check {
        let old = std::fs::read_to_string(&kept).unwrap_or_default();
        anyhow::ensure!(old == text, "{} is stale; run `cargo xtask generate`", kept.display());
    } else {
        std::fs::create_dir_all(kept.parent().context("no parent")?)?;
        std::fs::write(&kept, text)?;
        println!("wrote {}", kept.display());
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Messages,
    Client,
    Server,
}

fn generate(root: &Path, out: &Path, part: Part) -> anyhow::Result<()> {
    let include = root.join("proto");
    let files = protox::compile([PROTO], [&include]).context("compiling proto")?;
    let builder = tonic_prost_build::configure()
        .build_client(part == Part::Client)
        .build_server(part == Part::Server)
        .build_transport(false)
        .out_dir(out);
    let builder = match part {
        Part::Messages => builder,
        Part::Client => builder.extern_path(".keepgate.sync.v1", "::keepgate_policy::proto"),
        // The center encodes a message once and sends its bytes to many streams.
        Part::Server => builder
            .extern_path(".keepgate.sync.v1.FollowResponse", "crate::follow::frame::Frame")
            .extern_path(".keepgate.sync.v1", "::keepgate_policy::proto")
            .codec_path("crate::follow::frame::FrameCodec"),
    };
    builder.compile_fds(files).context("generating code")
}

/// Messages alone: the gate writes the few bytes around them itself.
fn generate_envoy(root: &Path, out: &Path) -> anyhow::Result<()> {
    let include = root.join("proto");
    let files = protox::compile(ENVOY, [&include]).context("compiling proto")?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .build_transport(false)
        .compile_well_known_types(true)
        .out_dir(out)
        .compile_fds(files)
        .context("generating code")
}
