//! The source of the crate as `syn` parses it: which file uses which, what it prints, how long it is. Tests are left
//! out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemMod, ItemUse, Signature, TraitItemFn, UseTree, Visibility};

/// The segments of a path: `["crate", "store", "Store"]`.
pub(super) type Segments = Vec<String>;

/// All files that are reached from `lib.rs`, by the path of their module.
pub(super) struct Crate(BTreeMap<Segments, Source>);

/// A file without its tests.
pub(super) struct Source {
    /// Its path below `src`, such as `cli/ui.rs`.
    pub(super) file: String,
    /// The path of its module, such as `["cli", "ui"]`.
    pub(super) module: Segments,
    /// Its lines without tests.
    pub(super) lines: usize,
    /// Whether a comment says why it is long.
    pub(super) is_long_for_a_reason: bool,
    pub(super) functions: Vec<Function>,
    /// Macros that it calls, with their lines.
    pub(super) macros: Vec<(String, usize)>,
    imports: Vec<Import>,
    /// Paths outside of `use`.
    paths: Vec<Mention>,
    /// All names that the code mentions outside of `use`.
    names: BTreeSet<String>,
    /// Files that it declares as modules.
    children: Vec<Segments>,
}

/// A function with a body.
pub(super) struct Function {
    pub(super) name: String,
    /// From the signature to the closing brace.
    pub(super) lines: usize,
    /// Whether a comment above it says why it is long.
    pub(super) is_long_for_a_reason: bool,
}

/// A path as written, the module that it is written in, and its line.
#[derive(Clone)]
pub(super) struct Mention {
    pub(super) path: Segments,
    module: Segments,
    pub(super) line: usize,
}

/// A name that a `use` brings into scope; none for a glob.
struct Import {
    name: Option<String>,
    mention: Mention,
    /// `pub use`: other files may get the name from here.
    is_reexport: bool,
}

impl Crate {
    /// Reads the files of `src` from `lib.rs` on.
    pub(super) fn read(src: &Path) -> Self {
        Self::load(&|file| fs::read_to_string(src.join(file)).unwrap_or_else(|e| panic!("can't read {file}: {e}")))
    }

    /// Parses the files that `text` returns, from `lib.rs` on.
    pub(super) fn load(text: &dyn Fn(&str) -> String) -> Self {
        let mut files = BTreeMap::new();
        let mut open = vec![Segments::new()];
        while let Some(module) = open.pop() {
            let file = if module.is_empty() { "lib.rs".to_owned() } else { format!("{}.rs", module.join("/")) };
            let source = Source::parse(&file, module.clone(), &text(&file));
            open.extend(source.children.iter().cloned());
            files.insert(module, source);
        }
        Self(files)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Source> {
        self.0.values()
    }

    /// Everything that a file mentions, by path from the root of the crate, as written: re-exports are not followed.
    pub(super) fn mentions(&self, source: &Source) -> Vec<(Segments, usize)> {
        let imports = source.imports.iter().map(|import| &import.mention);
        imports.chain(&source.paths).filter_map(|m| Some((self.absolute(m)?, m.line))).collect()
    }

    /// The files that a file uses. A `pub use` alone does not count; it is followed to where the name is defined.
    pub(super) fn used_by<'a>(&'a self, source: &'a Source) -> BTreeSet<&'a str> {
        let is_used = |import: &&Import| {
            !import.is_reexport || import.name.as_ref().is_some_and(|name| source.names.contains(name))
        };
        let imports = source.imports.iter().filter(is_used).map(|import| &import.mention);
        let mentions = imports.chain(&source.paths).filter_map(|m| self.absolute(m));
        let files = mentions.filter_map(|path| Some(self.defining(&path, 0)?.file.as_str()));
        files.filter(|file| *file != source.file).collect()
    }

    /// A path from the root of the crate; none if it leads to another crate or to a name that a `use` brought in.
    fn absolute(&self, mention: &Mention) -> Option<Segments> {
        let Mention { path, module, .. } = mention;
        let supers = path.iter().take_while(|segment| *segment == "super").count();
        let (mut from, rest) = match path.first()?.as_str() {
            "crate" => (Segments::new(), &path[1..]),
            "self" => (module.clone(), &path[1..]),
            "super" => (module[..module.len().checked_sub(supers)?].to_vec(), &path[supers..]),
            name if self.0.contains_key(&[module.as_slice(), &[name.to_owned()]].concat()) => {
                (module.clone(), &path[..])
            }
            _ => return None,
        };
        from.extend_from_slice(rest);
        Some(from)
    }

    /// The file that defines the item at a path from the root of the crate.
    fn defining(&self, path: &[String], depth: usize) -> Option<&Source> {
        let length = (0..=path.len()).rev().find(|n| self.0.contains_key(&path[..*n]))?;
        let source = &self.0[&path[..length]];
        let Some(name) = path.get(length).filter(|_| depth < 8) else { return Some(source) };
        let import = source.imports.iter().find(|import| import.name.as_ref() == Some(name));
        let Some(from) = import.and_then(|import| self.absolute(&import.mention)) else { return Some(source) };
        self.defining(&[&from, &path[length + 1..]].concat(), depth + 1)
    }
}

impl Source {
    fn parse(file: &str, module: Segments, text: &str) -> Self {
        let tree = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
        let lines: Vec<&str> = text.lines().collect();
        let head = lines.iter().take_while(|line| line.is_empty() || line.starts_with("//"));
        let mut source = Self {
            file: file.to_owned(),
            module: module.clone(),
            lines: lines.len(),
            is_long_for_a_reason: head.clone().any(|line| is_reason(line)),
            functions: Vec::new(),
            macros: Vec::new(),
            imports: Vec::new(),
            paths: Vec::new(),
            names: BTreeSet::new(),
            children: Vec::new(),
        };
        Reader { source: &mut source, module, lines: &lines }.visit_file(&tree);
        source
    }

    /// Paths as written in `use` and elsewhere.
    pub(super) fn written(&self) -> impl Iterator<Item = &Mention> {
        self.imports.iter().map(|import| &import.mention).chain(&self.paths)
    }
}

/// `// Long because: …`, also in a doc comment.
fn is_reason(line: &str) -> bool {
    line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with("Long because: ")
}

struct Reader<'a> {
    source: &'a mut Source,
    /// The path of the current module; inside of `mod x { … }` it is longer than the path of the file's module.
    module: Segments,
    lines: &'a [&'a str],
}

impl Reader<'_> {
    fn mention(&self, path: Segments, span: Span) -> Mention {
        Mention { path, module: self.module.clone(), line: span.start().line }
    }

    fn function(&mut self, attributes: &[Attribute], signature: &Signature, end: Span) {
        let start = signature.span().start().line;
        let first = attributes.iter().map(|a| a.span().start().line).min().unwrap_or(start).min(start);
        let above = self.lines[..first - 1].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
        let is_long_for_a_reason = self.lines[first - 1..start].iter().chain(above).any(|line| is_reason(line));
        let lines = end.end().line - start + 1;
        self.source.functions.push(Function { name: signature.ident.to_string(), lines, is_long_for_a_reason });
    }

    /// Paths in the arguments of a macro, which `syn` leaves unparsed.
    fn scan(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Segments::new(), 0);
        let mut at = Span::call_site();
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.keep(&mut path, at);
                        at = name.span();
                    }
                    self.source.names.insert(name.to_string());
                    path.push(name.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(sign) if sign.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Punct(sign) if sign.as_char() == '!' => {
                    let name = path.last().map(|name| (name.clone(), at.start().line));
                    self.source.macros.extend(name);
                }
                TokenTree::Group(group) => self.scan(group.stream()),
                _ => {}
            }
            self.keep(&mut path, at);
            colons = 0;
        }
        self.keep(&mut path, at);
    }

    fn keep(&mut self, path: &mut Segments, at: Span) {
        if path.len() > 1 {
            let mention = self.mention(std::mem::take(path), at);
            self.source.paths.push(mention);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            let span = item.span();
            self.source.lines -= span.end().line - span.start().line + 1;
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        match &item.content {
            None => self.source.children.push(self.module.clone()),
            Some((_, items)) => items.iter().for_each(|item| self.visit_item(item)),
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_reexport = !matches!(item.vis, Visibility::Inherited);
        for (path, name) in leaves(&item.tree, &[]) {
            let mention = self.mention(path, item.span());
            self.source.imports.push(Import { name, mention, is_reexport });
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.attrs, &item.sig, item.block.brace_token.span.close());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.attrs, &item.sig, item.block.brace_token.span.close());
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block.brace_token.span.close());
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mention = self.mention(path.segments.iter().map(|s| s.ident.to_string()).collect(), path.span());
        self.source.paths.push(mention);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|s| (s.ident.to_string(), call.path.span().start().line));
        self.source.macros.extend(name);
        self.scan(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_ident(&mut self, name: &'ast proc_macro2::Ident) {
        self.source.names.insert(name.to_string());
    }

    // `pub(in crate::cli)` and `#[serde(…)]` use nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// What a `use` names: the path, and the name in this file.
fn leaves(tree: &UseTree, before: &[String]) -> Vec<(Segments, Option<String>)> {
    let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident)),
        UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(tree, before)).collect(),
        UseTree::Name(name) if name.ident == "self" => vec![(before.to_vec(), before.last().cloned())],
        UseTree::Name(name) => vec![(with(&name.ident), Some(name.ident.to_string()))],
        UseTree::Rename(name) if name.ident == "self" => vec![(before.to_vec(), Some(name.rename.to_string()))],
        UseTree::Rename(name) => vec![(with(&name.ident), Some(name.rename.to_string()))],
        UseTree::Glob(_) => vec![(before.to_vec(), None)],
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(any(fuzzing, test))]`; not `#[cfg(not(test))]`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => list.path.is_ident("cfg") && names_test(list.tokens.clone()),
        _ => false,
    })
}

fn names_test(tokens: TokenStream) -> bool {
    let mut is_negated = false;
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(name) => {
            is_negated = name == "not";
            name == "test"
        }
        TokenTree::Group(group) => !is_negated && names_test(group.stream()),
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
