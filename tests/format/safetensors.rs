//! Headers and indices.

use foretoken::format::safetensors::{Header, Index, MAX_HEADER_BYTES, header_len};
use foretoken::format::stored::StoredType;

use crate::refused;
use crate::samples::safetensors;

/// Parses a whole file as a loader would.
pub fn parse(file: &[u8]) -> foretoken::Result<Header> {
    let file_len = file.len() as u64;
    let len = header_len("x.safetensors", &file[..file.len().min(8)], file_len)? as usize;
    Header::parse("x.safetensors", &file[8..8 + len], file_len)
}

#[track_caller]
fn check_refused(header: &str, data_len: usize, words: &[&str]) {
    refused(parse(&safetensors(header, data_len)), &[words, &["x.safetensors"]].concat());
}

#[test]
fn tensors_metadata_and_other_types_are_read() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"F16","shape":[3,2],"data_offsets":[4,16]},
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "c":{"dtype":"BF16","shape":[1],"data_offsets":[16,18]},
        "ids":{"dtype":"I64","shape":[2],"data_offsets":[18,34]}}   "#;
    let file = safetensors(header, 34);
    let parsed = parse(&file).unwrap();
    let start = 8 + header.len() as u64;
    let b = &parsed.tensors["b"];
    assert_eq!(
        (b.dtype, b.shape.as_slice(), b.range.clone()),
        (StoredType::F16, [3, 2].as_slice(), start + 4..start + 16)
    );
    assert_eq!((b.num_elements(), b.byte_len(), b.file.as_str()), (6, 12, "x.safetensors"));
    assert_eq!(parsed.tensors["a"].shape, Vec::<usize>::new());
    assert_eq!(parsed.tensors["c"].dtype.unit(), (1, 2));
    assert_eq!((parsed.skipped["ids"].dtype.as_str(), parsed.skipped["ids"].shape.as_slice()), ("I64", [2].as_slice()));
    assert_eq!(parsed.metadata["format"], "pt");
    assert_eq!(parsed.tensors.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn a_file_of_the_safetensors_crate_is_read_as_it_was_written() {
    use ::safetensors::tensor::{Dtype as Stored, TensorView, serialize};
    let data: Vec<u8> = (0..24).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let tensors = [("w", view(Stored::F32, &[2, 2], &data[..16])), ("v", view(Stored::BF16, &[4], &data[16..]))];
    let file = serialize(tensors, None).unwrap();
    let parsed = parse(&file).unwrap();
    let slice = |name: &str| {
        let range = &parsed.tensors[name].range;
        &file[range.start as usize..range.end as usize]
    };
    assert_eq!((slice("w"), slice("v")), (&data[..16], &data[16..]));
}

#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_read() {
    let len = |first8: &[u8], file_len| header_len("x.safetensors", first8, file_len);
    assert_eq!(len(&92u64.to_le_bytes(), 100).unwrap(), 92);
    refused(len(&93u64.to_le_bytes(), 100), &["93", "92", "truncated"]);
    refused(len(&u64::MAX.to_le_bytes(), 100), &["18446744073709551615"]);
    refused(len(&(MAX_HEADER_BYTES + 1).to_le_bytes(), u64::MAX), &["100000001", "100000000"]);
    refused(len(&[1, 2, 3], 3), &["expected 8 bytes", "got 3"]);
    refused(len(&[], 0), &["got 0"]);
    refused(Header::parse("x", b"{}", 9), &["ends inside its header"]);
}

#[test]
fn broken_headers_are_refused_by_name() {
    check_refused("", 0, &["header"]);
    check_refused("[]", 0, &["JSON object"]);
    check_refused("{\"a\":", 0, &["header"]);
    check_refused("{} x", 0, &["trailing"]);
    check_refused("{}", 1, &["fill 0 bytes", "1 bytes"]);
    check_refused(r#"{"a":5}"#, 0, &["\"a\""]);
    check_refused(r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}"#, 4, &["\"a\"", "Q4"]);
    check_refused(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4, &["\"a\"", "dtype"]);
    check_refused(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, &["\"a\"", "-1"]);
    check_refused(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4, &["\"a\""]);
    check_refused(r#"{"a":{"dtype":"F32","shape":{"0":1},"data_offsets":[0,4]}}"#, 4, &["\"a\""]);
    check_refused(r#"{"__metadata__":{"a":5}}"#, 0, &["__metadata__"]);
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    check_refused(twice, 8, &["\"a\"", "twice"]);
    check_refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, &["twice"]);
    check_refused(&"[".repeat(100_000), 0, &["header"]);
}

#[test]
fn broken_shapes_and_offsets_are_refused_with_expected_and_got() {
    let one =
        |shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    check_refused(&one("[0]", "[0,4]"), 4, &["\"a\"", "expected 0 bytes", "[0]", "got 4"]);
    check_refused(&one("[18446744073709551615,0]", "[0,0]"), 0, &["overflows"]);
    let long = vec!["1"; 5000].join(",");
    check_refused(&one(&format!("[{long}]"), "[0,0]"), 0, &["[1, 1, 1, 1, 1, 1, 1, 1]... of 5000 dimensions"]);
    check_refused(&one("[4294967296,4294967296]", "[0,4]"), 4, &["overflows"]);
    check_refused(&one("[18446744073709551615]", "[0,4]"), 4, &["overflows"]);
    check_refused(&one("[18446744073709551616]", "[0,4]"), 4, &["\"a\""]);
    check_refused(&one("[2]", "[0,4]"), 4, &["expected 8 bytes", "got 4"]);
    check_refused(&one("[1]", "[4,0]"), 4, &["end (0)", "start (4)"]);
    check_refused(&one("[1]", "[0,18446744073709551615]"), 4, &["exceed the 4 bytes"]);
    check_refused(&one("[2]", "[0,8]"), 7, &["exceed the 7 bytes", "download it again"]);
    check_refused(&one("[1]", "[4,8]"), 8, &["4 unused bytes"]);
    check_refused(&one("[1]", "[0,4]"), 8, &["fill 4 bytes", "8 bytes"]);
    let two = |a: &str, b: &str| {
        let tensor = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b))
    };
    check_refused(&two("[0,8]", "[4,12]"), 12, &["\"b\"", "overlap"]);
    check_refused(&two("[0,8]", "[0,8]"), 8, &["overlap"]);
    check_refused(&two("[0,8]", "[12,20]"), 20, &["\"b\"", "4 unused bytes"]);
    let fraction = r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#;
    check_refused(fraction, 1, &["\"a\"", "whole bytes"]);
}

#[test]
fn what_is_not_needed_is_no_trouble() {
    let header = r#"{"__metadata__":null,"none":{"dtype":"F32","shape":[2,0,3],"data_offsets":[4,4]},
        "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let parsed = parse(&safetensors(header, 8)).unwrap();
    assert_eq!(parsed.tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((parsed.skipped["none"].shape.as_slice(), parsed.metadata.len()), (&[2, 0, 3][..], 0));
}

#[test]
fn nan_and_infinity_are_found_in_every_type() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},"c":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]}}"#;
    let parsed = parse(&safetensors(header, 16)).unwrap();
    let check = |name: &str, patterns: &[u8], finite: bool| {
        let result = parsed.tensors[name].check_finite(patterns);
        if finite {
            result.unwrap();
        } else {
            refused(result, &[&format!("\"{name}\""), "NaN or infinite"]);
        }
    };
    let f32s = |values: [f32; 2]| values.map(f32::to_le_bytes).concat();
    check("a", &f32s([1.0, f32::MAX]), true);
    check("a", &f32s([f32::NAN, 1.0]), false);
    check("a", &f32s([1.0, f32::NEG_INFINITY]), false);
    let halves = |values: [u16; 2]| values.map(u16::to_le_bytes).concat();
    check("b", &halves([0x7bff, 0x8000]), true);
    check("b", &halves([0x7c00, 0]), false);
    check("b", &halves([0, 0xfe00]), false);
    check("c", &halves([0x7f7f, 0x7c00]), true);
    check("c", &halves([0xff80, 0]), false);
    check("c", &halves([0, 0x7fc0]), false);
    check("c", &[], true);
}

#[test]
fn an_index_names_files_of_its_own_folder() {
    let parse = |json: &str| Index::parse("index.json", json.as_bytes());
    let index = parse(
        r#"{"metadata":{"total_size":8},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#,
    );
    let index = index.unwrap();
    assert_eq!(index.shards().into_iter().collect::<Vec<_>>(), ["m-1.safetensors", "m-2.safetensors"]);
    assert_eq!(index.weight_map["b"], "m-2.safetensors");
    refused(parse("{}"), &["index.json", "weight_map"]);
    refused(parse(r#"{"weight_map":{}}"#), &["empty"]);
    refused(parse(r#"{"weight_map":{"a":5}}"#), &["\"a\""]);
    refused(parse(r#"{"weight_map":{"a":"x","a":"y"}}"#), &["\"a\"", "twice"]);
    for shard in ["../x", "/x", "a/b", "a\\\\b", "..", ".", "", "c:x", "x%2fy", "x?y", "x#y", "x\\ny"] {
        refused(parse(&format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#)), &["\"a\"", "same folder"]);
    }
}
