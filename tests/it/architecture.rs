//! The invariants of ARCHITECTURE.md, as they can be read from the source.
//!
//! The source is parsed, module by module as the compiler finds them, and what is compiled for tests only is left out, item
//! by item: a test in the middle of a file hides nothing of what stands below it. Names are read as paths of the whole
//! crate, so that `super::super::admin` and `use crate::{admin}` are what `crate::admin` is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, Item, Meta, UseTree};

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// A module with what it names: paths from the crate's root (`crate::…`), or of other crates.
#[derive(Debug)]
struct Module {
    /// Its own path, without `crate`.
    path: Vec<String>,
    file: PathBuf,
    names: BTreeSet<String>,
}

impl Module {
    fn is_in(&self, top: &str) -> bool {
        self.path.first().is_some_and(|first| first == top)
    }

    /// The names that are this path or lie in it.
    fn names_of<'m>(&'m self, path: &'m str) -> impl Iterator<Item = &'m str> {
        let within = move |name: &&String| {
            name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.names.iter().filter(within).map(String::as_str)
    }
}

/// True of an attribute that leaves its item to the tests.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let words = list.tokens.to_string();
            // `not(test)` is for everybody else.
            let mut words =
                words.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).peekable();
            let first = words.peek().copied();
            first != Some("not") && first != Some("any") && words.any(|word| word == "test")
        }
        Meta::Path(path) => path.segments.last().is_some_and(|last| last.ident == "test"),
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// What a file's code names, as it stands there.
#[derive(Default)]
struct Names {
    paths: Vec<Vec<String>>,
    /// What each imported name is.
    imported: BTreeMap<String, Vec<String>>,
}

impl Names {
    fn of_use(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.of_use(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => {
                self.import(before.last().cloned().unwrap(), before.to_vec())
            }
            UseTree::Name(name) => self.import(name.ident.to_string(), with(name.ident.to_string())),
            UseTree::Rename(rename) => self.import(rename.rename.to_string(), with(rename.ident.to_string())),
            UseTree::Glob(_) => self.paths.push(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.of_use(before, tree)),
        }
    }

    fn import(&mut self, name: String, path: Vec<String>) {
        self.paths.push(path.clone());
        self.imported.insert(name, path);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        // Modules of their own are read by themselves.
        if !is_for_tests(attributes(item)) && !matches!(item, Item::Mod(_)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            syn::visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.of_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    /// What stands in a macro is read as words: whatever it makes of them, it names them.
    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        self.visit_path(&of.path);
        let text = of.tokens.to_string().replace(" :: ", "::").replace(":: ", "::").replace(" ::", "::");
        // Every second part stands in quotes.
        for part in text.split('"').step_by(2) {
            for word in part.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
                let path: Vec<String> = word.split("::").map(str::to_owned).collect();
                if path.iter().all(|segment| !segment.is_empty() && !segment.contains(':')) {
                    self.paths.push(path);
                }
            }
        }
    }
}

/// A path as it stands in a module, from the root of its crate.
fn absolute(module: &[String], path: &[String], imported: &BTreeMap<String, Vec<String>>) -> String {
    let mut path = path.to_vec();
    if let Some(whole) = imported.get(&path[0]).filter(|whole| whole[0] != path[0] || whole.len() > 1) {
        path.splice(..1, whole.iter().cloned());
    }
    let mut at = module.to_vec();
    let mut rest = &path[..];
    match rest.first().map(String::as_str) {
        Some("crate") => return path.join("::"),
        Some("self") => rest = &rest[1..],
        Some("super") => {
            while rest.first().is_some_and(|first| first == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
        _ => return path.join("::"),
    }
    ["crate".to_owned()].iter().chain(&at).chain(rest).cloned().collect::<Vec<_>>().join("::")
}

/// Reads a module and those in it that are not for tests; notes the files of those that are.
fn read(file: &Path, path: &[String], all: &mut Vec<Module>, for_tests: &mut Vec<PathBuf>) {
    let text = std::fs::read_to_string(file).unwrap();
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
    let own_folder = ["mod", "lib", "main"].contains(&&*stem);
    let folder = if own_folder { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    items(&parsed.items, file, &folder, path, all, for_tests);
}

fn items(
    items_of: &[Item],
    file: &Path,
    folder: &Path,
    path: &[String],
    all: &mut Vec<Module>,
    for_tests: &mut Vec<PathBuf>,
) {
    let mut names = Names::default();
    items_of.iter().for_each(|item| names.visit_item(item));
    let known = names.paths.iter().map(|name| absolute(path, name, &names.imported)).collect();
    all.push(Module { path: path.to_vec(), file: file.to_owned(), names: known });
    for item in items_of {
        let Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        let inside = [path, std::slice::from_ref(&name)].concat();
        let skipped = is_for_tests(&module.attrs);
        if let Some((_, inner)) = &module.content {
            if !skipped {
                items(inner, file, &folder.join(&name), &inside, all, for_tests);
            }
            continue;
        }
        let renamed = module.attrs.iter().find_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        });
        let candidates = match renamed {
            Some(renamed) => vec![file.parent().unwrap().join(renamed)],
            None => vec![folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")],
        };
        let found =
            candidates.iter().find(|c| c.exists()).unwrap_or_else(|| panic!("{inside:?} has no file"));
        if skipped {
            for_tests.push(found.clone());
        } else {
            read(found, &inside, all, for_tests);
        }
    }
}

fn modules() -> Vec<Module> {
    let (mut all, mut for_tests) = (Vec::new(), Vec::new());
    read(&source().join("lib.rs"), &[], &mut all, &mut for_tests);
    let read: BTreeSet<&PathBuf> = all.iter().map(|module| &module.file).chain(&for_tests).collect();
    for file in rust_files(&source()) {
        assert!(read.contains(&file) || file.ends_with("main.rs"), "{} belongs to nothing", file.display());
    }
    all
}

/// The modules of a folder, by its files and folders.
fn in_folder(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names = entries.filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"));
    let names = names.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
    names.filter(|name| !["lib", "main", "mod"].contains(&&**name) && !name.ends_with("tests")).collect()
}

/// What is pure: the core, and what makes values of what others saw.
const CORE: [&str; 6] = ["limit", "route", "observation", "dialects", "owner", "engine"];
const MAKERS: [&str; 4] = ["recorded", "seen", "mapping", "claude_code"];
/// Values and small helpers that anybody may name, the core too. (Of the ledger the engine names what totals are kept by.)
const HELPERS: [&str; 6] = ["text", "causes", "fingerprint", "shared_limits", "explain", "ledger"];

/// Modules of the pure part; the engine's shell is the one exception.
fn pure(modules: &[Module]) -> impl Iterator<Item = &Module> {
    let pure = |module: &&Module| CORE.iter().chain(&MAKERS).any(|top| module.is_in(top));
    modules.iter().filter(pure).filter(|module| module.path != ["engine", "task"])
}

#[test]
fn the_core_names_no_runtime_no_network_and_no_clock() {
    let modules = modules();
    let foreign = [
        "tokio",
        "hyper",
        "reqwest",
        "tracing",
        "std::net",
        "std::fs",
        "std::env",
        "std::thread",
        "std::process",
    ];
    let mut looked = 0;
    for module in pure(&modules) {
        for path in foreign {
            let named: Vec<&str> = module.names_of(path).collect();
            assert!(named.is_empty(), "{} names {named:?}", module.file.display());
        }
        let clock = |name: &&String| name.split("::").any(|part| part == "Instant" || part == "SystemTime");
        let clocks: Vec<&String> = module.names.iter().filter(clock).collect();
        assert!(clocks.is_empty(), "{} names {clocks:?}", module.file.display());
        looked += module.names.len();
    }
    assert!(looked > 2_000, "{looked} names: the source is not read");
}

#[test]
fn the_core_knows_no_part_of_the_shell() {
    let modules = modules();
    let known: BTreeSet<&str> = CORE.into_iter().chain(MAKERS).chain(HELPERS).collect();
    let shell: Vec<String> =
        in_folder(&source()).into_iter().filter(|name| !known.contains(&**name)).collect();
    assert!(shell.iter().any(|name| name == "app") && shell.len() > 15, "{shell:?}");
    for module in pure(&modules) {
        for part in &shell {
            let part = format!("crate::{part}");
            let named: Vec<&str> = module.names_of(&part).collect();
            assert!(named.is_empty(), "{} names {named:?}", module.file.display());
        }
    }
}

/// Of the exporters' folder: what all of them are made from.
const SHARED: [&str; 3] = ["catalogue", "calls", "genai"];

#[test]
fn sources_and_exporters_do_not_know_each_other() {
    let modules = modules();
    let of = |top: &'static str| modules.iter().filter(move |module| module.is_in(top));
    for (top, others) in [
        ("sources", ["crate::exporters", "crate::admin", "crate::app"]),
        ("exporters", ["crate::sources", "crate::admin", "crate::app"]),
    ] {
        for module in of(top) {
            for other in others {
                let named: Vec<&str> = module.names_of(other).collect();
                assert!(named.is_empty(), "{} names {named:?}", module.file.display());
            }
        }
    }
    let exporters = in_folder(&source().join("exporters"));
    assert!(exporters.len() >= 9, "{exporters:?}");
    for module in of("exporters").filter(|module| module.path.len() > 1) {
        for other in exporters.iter().filter(|other| **other != module.path[1]) {
            if SHARED.contains(&&**other) {
                continue;
            }
            let other = format!("crate::exporters::{other}");
            let named: Vec<&str> = module.names_of(&other).collect();
            assert!(named.is_empty(), "{} names {named:?}", module.file.display());
        }
    }
}

#[test]
fn only_the_binary_the_demo_and_tests_compose() {
    // A comparison runs a sidecar of its own, as the demo does.
    for module in modules() {
        if ["app", "cli", "demo", "diff"].iter().any(|composer| module.is_in(composer)) {
            continue;
        }
        let named: Vec<&str> = module.names_of("crate::app").collect();
        assert!(named.is_empty(), "{} names {named:?}", module.file.display());
    }
}

/// A client that follows redirects loses what it delivers; one maker knows that.
#[test]
fn clients_are_made_in_one_place() {
    let makers =
        ["reqwest::Client::new", "reqwest::Client::builder", "reqwest::ClientBuilder", "reqwest::get"];
    for module in modules().iter().filter(|module| !module.is_in("outgoing")) {
        for maker in makers {
            // The type may be named; what is called on it is the next word.
            let named: Vec<&str> =
                module.names_of(maker).filter(|n| *n != "reqwest::ClientBuilder").collect();
            assert!(named.is_empty(), "{} makes a client: {named:?}", module.file.display());
        }
    }
}

/// What this test reads, on a file of its own: nothing hides behind a test, and no way of writing a path is another path.
#[test]
fn code_below_a_test_is_read_and_tests_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lib.rs");
    let text = "
        use crate::{a::b as c, d};
        #[cfg(test)] use tests::only;
        #[cfg(test)] mod tests { use hidden::one; }
        #[cfg(all(test, unix))] fn probe() { hidden::two(); }
        #[cfg(not(test))] fn real() { seen::one(); }
        fn below() { c::call(); d::call(); println!(\"hidden::three {}\", seen::two()); }
        struct S;
        impl S { #[cfg(test)] fn t() { hidden::four(); } fn f() { self::near::thing(); } }
        mod inner { fn f() { super::super_of::x(); #[cfg(test)] fn g() { hidden::five(); } } }
    ";
    std::fs::write(&file, text).unwrap();
    let (mut all, mut for_tests) = (Vec::new(), Vec::new());
    read(&file, &["m".to_owned()], &mut all, &mut for_tests);
    let names: BTreeSet<&str> = all.iter().flat_map(|module| &module.names).map(String::as_str).collect();
    for wanted in [
        "crate::a::b::call",
        "crate::d::call",
        "seen::one",
        "seen::two",
        "crate::m::near::thing",
        "crate::m::super_of::x",
    ] {
        assert!(names.contains(wanted), "{wanted}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("hidden") || name.contains("only")), "{names:?}");
}

#[test]
fn every_file_opens_with_what_it_does() {
    for file in rust_files(&source()) {
        if file.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} says nothing of itself", file.display());
    }
}
