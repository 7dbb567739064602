//! Compiles what makes sled's syncs durable, see `src/sled/sync_file_range.c`.

fn main() {
    const SOURCE: &str = "src/sled/sync_file_range.c";
    println!("cargo:rerun-if-changed={SOURCE}");
    let is_set = |name: &str, value: Option<&str>| {
        std::env::var(name).is_ok_and(|found| value.is_none_or(|value| found == value))
    };
    if is_set("CARGO_FEATURE_SLED", None) && is_set("CARGO_CFG_TARGET_OS", Some("linux")) {
        cc::Build::new().file(SOURCE).warnings_into_errors(true).compile("ravel_sled_sync");
    }
}
