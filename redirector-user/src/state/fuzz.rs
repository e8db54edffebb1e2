//! What fuzzers try of the state directory.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use redirector_core::compile::compile;
use redirector_core::documents;
use redirector_core::store::{Content, Store};

use super::frame::{Frames, Kind, Scanned, put_text};
use super::{Contents, GenerationChange, Keeper, Snapshot, StateDir, Whole, journal};
use crate::datapath::Sizes;

/// What two generations are made of.
const DOCUMENTS: [&str; 2] = [
    include_str!("../../../deploy/examples/services.yaml"),
    include_str!("../../../deploy/examples/rules.yaml"),
];

/// Each frame of a journal: its kind, and what is in it.
type Texts = Vec<(Kind, Vec<u8>)>;

/// A journal of two generations.
fn written() -> Texts {
    let path = std::env::temp_dir().join(format!("redirector-fuzz-{}", std::process::id()));
    let state = StateDir::new(&path);
    state.create().expect("a directory");
    let mut keeper = Keeper::new(state.clone());
    let (mut store, mut before) = (Store::default(), Snapshot::default());
    for (place, text) in DOCUMENTS.into_iter().enumerate() {
        let file = format!("{place}.yaml").into();
        store.put(&file, Content::from(documents::read(Some(file.clone()), text)));
        let mut after = Snapshot { generation: place as u64 + 1, ..before.clone() };
        after.contents.objects = store.effective().into_values().collect();
        let plan = compile(&after.world()).plan;
        let placed = before.contents.layout.place(&plan, &Sizes::default().limits());
        after.contents.layout = placed.expect("there is room").0;
        let change = GenerationChange {
            store: store.kept_since(),
            ..GenerationChange::between(&before, &after)
        };
        let good = after.contents.objects.clone();
        let contents: Contents = after.contents.clone();
        keeper.append(change, || Whole { contents, good }).expect("it is written");
        store.accept();
        before = after;
    }
    let bytes = fs::read(journal::path(&state, 1)).expect("a journal");
    state.remove().expect("it goes");
    let texts = Frames::of(&bytes).map(|(found, _)| match found {
        Scanned::Frame(frame) => (frame.kind, frame.text().expect("what was packed")),
        Scanned::Damage => panic!("nothing is damaged"),
    });
    texts.collect()
}

/// A journal that was written by a daemon, with some of it changed: in what its frames say, which
/// has the right checksum then, or in its bytes. Whatever it is, what can be read of it is read,
/// the same each time, and all else is named. Each change is a byte that says which, one
/// for the frame, two for the place, one for the length, and so many bytes to put there.
pub fn journal(bytes: &[u8]) {
    static WRITTEN: OnceLock<Texts> = OnceLock::new();
    let mut texts = WRITTEN.get_or_init(written).clone();
    let (mut rest, mut on_disk) = (bytes, BTreeMap::new());
    while let [what, frame, high, low, length, more @ ..] = rest {
        let (new, more) = more.split_at(more.len().min((length % 32).into()));
        let place = usize::from(u16::from_be_bytes([*high, *low]));
        rest = more;
        let frame = usize::from(*frame) % texts.len().max(1);
        let Some((kind, text)) = texts.get_mut(frame) else { break };
        let (from, to) = (place.min(text.len()), (place + new.len()).min(text.len()));
        match what % 6 {
            0 => drop(text.splice(from..to, new.iter().copied())),
            1 => drop(text.splice(from..from, new.iter().copied())),
            2 => drop(text.drain(from..(from + usize::from(*length)).min(text.len()))),
            3 => *kind = [Kind::Contents, Kind::Layout, Kind::Record][place % 3],
            4 => drop(texts.remove(frame)),
            _ => drop(on_disk.insert(place, new.to_owned())),
        }
    }
    let mut journal = Vec::new();
    for (kind, text) in &texts {
        put_text(&mut journal, *kind, text).expect("it fits");
    }
    for (place, new) in on_disk {
        journal.iter_mut().skip(place).zip(new).for_each(|(old, new)| *old = new);
    }
    let state = StateDir::new("/nowhere");
    let read = || {
        let mut read = journal::read_one(&state, 1, &journal, u64::MAX)
            .map_err(|whys| whys.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let (snapshot, (kept, lost)) = (read.snapshot(), read.kept());
        let _ = read.told(&snapshot, &kept);
        let whole = read.damage.is_empty() && read.cut.take().is_none();
        let whole = whole && lost.is_empty() && snapshot.lost.is_empty();
        Ok::<_, Vec<String>>((snapshot, Store::of_kept(&kept).effective(), whole))
    };
    let (once, again) = (read(), read());
    assert_eq!(once, again);
    if bytes.is_empty() {
        let Ok((snapshot, good, true)) = once else { panic!("{once:?}") };
        let objects: Vec<_> = good.into_values().collect();
        assert_eq!((snapshot.generation, snapshot.contents.objects), (2, objects));
    }
}
