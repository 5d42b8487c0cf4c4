//! This project's own layout: `mtp_config.json` and `mtp.safetensors`, described in `docs/mtp-format.md`.

use serde_json::{Map, Value};

use super::{CONFIG, Head, HeadSet, HeadSource, Lora, LoraPart, MAX_HEADS, MAX_OFFSET, TENSORS, Wiring};
use crate::error::{Error, Result};
use crate::format::checkpoint::HeadKind;
use crate::format::config::ModelConfig;
use crate::format::fields::{Fields, brief};
use crate::format::files::{Files, read_whole};
use crate::format::safetensors::Header;
use crate::format::strict::parse_strictly;
use crate::format::tensors::Tensors;

/// The value of `format`.
pub const FORMAT: &str = "foretoken-mtp";

/// The version this code reads and writes.
pub const VERSION: u64 = 1;

const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// More layers than a useful head has.
const MAX_LAYERS: usize = 64;

/// Larger ranks than this are no low-rank changes.
const MAX_RANK: usize = 1024;

/// Every field, so that a misspelt one is not taken for a default.
const FIELDS: &[&str] = &["format", "version", "kind", "backbone", "heads", "lora"];
const HEAD_FIELDS: &[&str] = &["offset", "layers", "source", "backbone_last_layer", "own_norm", "target"];
const LORA_FIELDS: &[&str] = &["rank", "alpha", "targets", "blocks", "gated"];

/// The heads that `files` describe, or `None` without a description.
pub(super) async fn open<'f, F: Files>(files: &'f F, config: &ModelConfig) -> Result<Option<HeadSet<'f, F>>> {
    let Some(json) = read_whole(files, CONFIG, MAX_CONFIG_BYTES).await? else { return Ok(None) };
    let parsed = parse(&json, config).map_err(|error| error.within(files.describe()))?;
    let (heads, lora) = parsed;
    let tensors = Tensors::of_file(files, TENSORS).await?;
    // Heads that are the backbone's own layers need no tensors.
    let without_file = tensors.is_none();
    let tensors = tensors.unwrap_or_else(|| Tensors::new(files, Header::default()));
    let kind = HeadKind::Foretoken;
    let set = HeadSet { kind, heads, lora, norms_less_one: false, tensors, unused: Vec::new() };
    let name = |error: Error| if without_file { error.within(format!("{TENSORS} is missing")) } else { error };
    set.checked(config, CONFIG, |_| true).map(Some).map_err(name)
}

fn parse(json: &[u8], config: &ModelConfig) -> Result<(Vec<Head>, Option<Lora>)> {
    let map = parse_strictly(CONFIG, json)?;
    let fields = Fields::new(CONFIG, &map);
    match fields.text("format")? {
        Some(FORMAT) => {}
        _ => return Err(fields.error(format!("`format`: expected \"{FORMAT}\", got {}", fields.got("format")))),
    }
    match fields.get("version").map(Value::as_u64) {
        Some(Some(VERSION)) => {}
        Some(Some(other)) => {
            let message =
                format!("`version` {other}: this program reads version {VERSION}; update it, or make the heads anew");
            return Err(fields.unsupported(message));
        }
        _ => return Err(fields.error(format!("`version`: expected {VERSION}, got {}", fields.got("version")))),
    }
    known(&fields, FIELDS)?;
    let sequential = match fields.text("kind")? {
        Some("parallel") => false,
        Some("sequential") => true,
        _ => {
            let got = fields.got("kind");
            return Err(fields.error(format!("`kind`: expected \"parallel\" or \"sequential\", got {got}")));
        }
    };
    let backbone = fields.object("backbone")?.ok_or_else(|| fields.error("`backbone` is missing"))?;
    check_backbone(backbone, config)?;
    let heads = heads(&fields, sequential, config)?;
    let lora = fields.object("lora")?.map(|lora| parse_lora(lora, config)).transpose()?;
    Ok((heads, lora))
}

fn known(fields: &Fields<'_>, names: &[&str]) -> Result<()> {
    match fields.values().find(|(key, _)| !names.contains(&key.as_str())) {
        Some((key, _)) => Err(fields.unsupported(format!("`{key}` is not known; there are: {}", names.join(", ")))),
        None => Ok(()),
    }
}

/// The sizes that heads are made for.
pub(super) fn backbone_sizes(config: &ModelConfig) -> [(&'static str, usize); 7] {
    [
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_hidden_layers", config.num_hidden_layers),
        ("num_attention_heads", config.num_attention_heads),
        ("num_key_value_heads", config.num_key_value_heads),
        ("head_dim", config.head_dim),
        ("vocab_size", config.vocab_size),
    ]
}

fn check_backbone(stated: &Map<String, Value>, config: &ModelConfig) -> Result<()> {
    let place = format!("{CONFIG}, `backbone`");
    let fields = Fields::new(&place, stated);
    let made_for = |what: &str, stated: String, got: String| {
        fields.error(format!("these heads are for a backbone with `{what}` {stated}; this model has {got}"))
    };
    match fields.text("model_type")? {
        Some(model_type) if model_type != config.model_type => {
            Err(made_for("model_type", model_type.to_owned(), config.model_type.clone()))
        }
        _ => Ok(()),
    }?;
    for (key, size) in backbone_sizes(config) {
        let stated = fields.required_size(key)?;
        if stated != size {
            return Err(made_for(key, stated.to_string(), size.to_string()));
        }
    }
    Ok(())
}

fn heads(fields: &Fields<'_>, sequential: bool, config: &ModelConfig) -> Result<Vec<Head>> {
    let list = match fields.get("heads") {
        Some(Value::Array(list)) if (1..=MAX_HEADS).contains(&list.len()) => list,
        _ => {
            let got = fields.got("heads");
            return Err(fields.error(format!("`heads`: expected a list of 1 to {MAX_HEADS} heads, got {got}")));
        }
    };
    let mut heads: Vec<Head> = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let place = format!("{CONFIG}, head {}", index + 1);
        let Value::Object(map) = value else {
            return Err(Error::format(format!("{place}: expected an object, got {}", brief(value))));
        };
        let fields = Fields::new(&place, map);
        known(&fields, HEAD_FIELDS)?;
        let head = head(&fields, index, sequential, config)?;
        if let Some(before) = heads.last().filter(|before| before.offset >= head.offset) {
            let (before, got) = (before.offset, head.offset);
            return Err(
                fields.error(format!("`offset`: expected one above the {before} of the head before, got {got}"))
            );
        }
        let before = heads.last().map_or(1, |before: &Head| before.offset);
        if sequential && head.offset > before + 1 {
            let (offset, missing) = (head.offset, head.offset - 1);
            return Err(fields.error(format!(
                "`offset` {offset}: a sequential head reads the token that the one before it predicts; expected a head of offset {missing}"
            )));
        }
        heads.push(head);
    }
    Ok(heads)
}

fn head(fields: &Fields<'_>, index: usize, sequential: bool, config: &ModelConfig) -> Result<Head> {
    let at = |part: &str| format!("heads.{index}.{part}");
    let backbone = fields.flag("backbone_last_layer")? == Some(true);
    let offset = fields.within("offset", if sequential && !backbone { 2 } else { 1 }..=MAX_OFFSET)?;
    if backbone {
        if offset != 1 {
            return Err(fields.error(format!("`backbone_last_layer`: that predicts `offset` 1, got {offset}")));
        }
        let source = HeadSource::Layer(config.num_hidden_layers - 1);
        let wiring = Wiring::LastLayer;
        return Ok(Head { offset, source, wiring, layers: Vec::new(), final_norm: None, lm_head: None, target: false });
    }
    let layers = fields.within("layers", 1..=MAX_LAYERS)?;
    let wiring = match sequential {
        false => Wiring::Layers,
        true => Wiring::Sequential {
            hidden_norm: at("hidden_norm"),
            embedding_norm: at("embedding_norm"),
            projection: at("projection"),
            hidden_first: true,
            embedding: None,
        },
    };
    let head = Head {
        offset,
        source: source(fields, index, sequential, config)?,
        wiring,
        layers: (0..layers).map(|layer| at(&format!("layers.{layer}"))).collect(),
        final_norm: fields.flag("own_norm")?.unwrap_or(false).then(|| at("norm")),
        lm_head: None,
        target: fields.flag("target")?.unwrap_or(false),
    };
    if head.target && !head.can_be_target(config) {
        return Err(fields.error(
            "`target`: expected a head of offset 1 without a norm of its own, whose layers follow the stream that the backbone's as \
             many last ones read; or one layer on a mix",
        ));
    }
    Ok(head)
}

fn source(fields: &Fields<'_>, index: usize, sequential: bool, config: &ModelConfig) -> Result<HeadSource> {
    let expected =
        "`source`: expected {\"layer\": l}, {\"mix\": {\"temperature\": t}}, \"final_norm\" or {\"head\": n}";
    let value = fields.get("source").ok_or_else(|| fields.error(format!("{expected}, got nothing")))?;
    if value.as_str() == Some("final_norm") {
        return Ok(HeadSource::FinalNorm);
    }
    let wrong = || fields.error(format!("{expected}, got {}", brief(value)));
    let map = value.as_object().filter(|map| map.len() == 1).ok_or_else(wrong)?;
    let place = fields.place_of("source");
    let inner = Fields::new(&place, map);
    let total = config.num_hidden_layers;
    if inner.has_key("layer") {
        // The backbone's blocks.
        return inner.within("layer", 1..=total).map(HeadSource::Layer);
    }
    if let Some(mix) = inner.object("mix")? {
        let place = inner.place_of("mix");
        let mix = Fields::new(&place, mix);
        known(&mix, &["temperature"])?;
        let temperature = mix.positive("temperature")?.unwrap_or(1.0);
        if total < 2 {
            return Err(fields.error("`source`: a mix needs a backbone of at least 2 blocks"));
        }
        return Ok(HeadSource::Mix { weights: format!("heads.{index}.mix"), temperature });
    }
    // Heads count from 1 in the file, as their offsets and layers do.
    match inner.size("head")? {
        Some(head) if sequential && head <= index => Ok(HeadSource::Head(head - 1)),
        Some(head) => {
            Err(fields.error(format!("`source`: head {head}: expected an earlier head, of a sequential kind")))
        }
        None => Err(wrong()),
    }
}

fn parse_lora(map: &Map<String, Value>, config: &ModelConfig) -> Result<Lora> {
    let place = format!("{CONFIG}, `lora`");
    let fields = Fields::new(&place, map);
    known(&fields, LORA_FIELDS)?;
    let rank = fields.within("rank", 1..=MAX_RANK)?;
    let alpha = fields.positive("alpha")?.unwrap_or(rank as f64);
    let adaptable = config.adaptable();
    let short = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let all: Vec<&str> = adaptable.iter().map(|(name, _)| short(name)).collect();
    let targets = strings(&fields, "targets")?;
    if let Some(target) = targets.iter().find(|target| !all.contains(target)) {
        let message = format!("`targets`: \"{target}\"; {} has: {}", config.model_type, all.join(", "));
        return Err(fields.unsupported(message));
    }
    if let Some(twice) = targets.iter().enumerate().find(|(at, target)| targets[..*at].contains(target)) {
        return Err(fields.error(format!("`targets`: \"{}\" occurs twice", twice.1)));
    }
    let blocks = blocks(&fields, config.num_hidden_layers)?;
    let mut parts = Vec::new();
    for block in blocks {
        for (name, outputs) in adaptable.iter().filter(|(name, _)| targets.contains(&short(name))) {
            let at = format!("lora.{block}.{}", short(name));
            parts.push(LoraPart {
                linear: format!("{}.{name}", config.layer_name(block)),
                outputs: *outputs,
                a: format!("{at}.a"),
                b: format!("{at}.b"),
            });
        }
    }
    Ok(Lora { rank, alpha, gated: fields.flag("gated")?.unwrap_or(false), parts })
}

fn strings<'a>(fields: &Fields<'a>, key: &str) -> Result<Vec<&'a str>> {
    let list = fields.get(key).and_then(Value::as_array);
    let list = list.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    list.filter(|list| !list.is_empty())
        .ok_or_else(|| fields.error(format!("`{key}`: expected a list of at least one name, got {}", fields.got(key))))
}

/// Blocks of the backbone, counted from 0 as in the names of tensors.
fn blocks(fields: &Fields<'_>, total: usize) -> Result<Vec<usize>> {
    let list = fields.get("blocks").and_then(Value::as_array);
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n < total);
    let list = list.and_then(|list| list.iter().map(number).collect::<Option<Vec<_>>>());
    let ascending = |list: &Vec<usize>| !list.is_empty() && list.is_sorted_by(|a, b| a < b);
    list.filter(ascending).ok_or_else(|| {
        let (last, got) = (total - 1, fields.got("blocks"));
        fields.error(format!("`blocks`: expected an ascending list of numbers from 0 to {last}, got {got}"))
    })
}
