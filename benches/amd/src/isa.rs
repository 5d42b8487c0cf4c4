//! Reads the instructions of RDNA, as LLVM's disassembler writes them: what a shader's hot loop loads.

use std::collections::BTreeMap;

/// The innermost loop with the most vector loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotLoop {
    /// The most bytes that a thread loads between two waits for vector loads.
    pub bytes: u64,
    /// Scalar loads of a trip: descriptors, uniforms, and what is the same for all threads.
    pub scalar_loads: u64,
}

/// One instruction.
struct Instruction<'a> {
    name: &'a str,
    operands: &'a str,
}

/// Finds the hot loop. Without a loop that loads there is none, and all is 0.
///
/// # Errors
/// Where a vector load has a size that is not known here.
pub fn hot_loop(isa: &str) -> Result<HotLoop, String> {
    let (instructions, labels) = parse(isa);
    let loads = |trip: &[Instruction<'_>]| trip.iter().filter(|instruction| is_vector_load(instruction.name)).count();
    let (mut hot, mut most) = (HotLoop::default(), 0);
    for trip in innermost(loops(&instructions, &labels, |trip| loads(trip) > 0))
        .map(|(first, last)| &instructions[first..=last])
    {
        if loads(trip) > most {
            most = loads(trip);
            let scalar_loads = trip.iter().filter(|instruction| is_scalar_load(instruction.name)).count() as u64;
            hot = HotLoop { bytes: bytes_between_waits(trip)?, scalar_loads };
        }
    }
    Ok(hot)
}

/// All instructions, and for each label the number of the instruction after it.
fn parse(isa: &str) -> (Vec<Instruction<'_>>, BTreeMap<&str, usize>) {
    let (mut instructions, mut labels) = (Vec::new(), BTreeMap::new());
    for line in isa.lines() {
        // What follows a semicolon is the machine code.
        let line = line.split(';').next().unwrap_or_default().trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, instructions.len());
        } else if !line.is_empty() {
            let (name, operands) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            instructions.push(Instruction { name, operands: operands.trim() });
        }
    }
    (instructions, labels)
}

/// First and last instruction of every loop that is `wanted`. A loop ends with its last branch back.
fn loops<'a>(
    instructions: &[Instruction<'a>],
    labels: &BTreeMap<&str, usize>,
    wanted: impl Fn(&[Instruction<'a>]) -> bool,
) -> Vec<(usize, usize)> {
    let mut loops = BTreeMap::new();
    for (last, instruction) in instructions.iter().enumerate() {
        let is_branch = instruction.name == "s_branch" || instruction.name.starts_with("s_cbranch_");
        if let Some(&first) = labels.get(instruction.operands).filter(|&&first| is_branch && first <= last) {
            loops.insert(first, last);
        }
    }
    loops.into_iter().filter(|&(first, last)| wanted(&instructions[first..=last])).collect()
}

/// The loops with no other inside.
fn innermost(loops: Vec<(usize, usize)>) -> impl Iterator<Item = (usize, usize)> {
    let inside =
        |outer: (usize, usize), inner: (usize, usize)| outer != inner && outer.0 <= inner.0 && inner.1 <= outer.1;
    let all = loops.clone();
    loops.into_iter().filter(move |&outer| !all.iter().any(|&inner| inside(outer, inner)))
}

fn bytes_between_waits(trip: &[Instruction<'_>]) -> Result<u64, String> {
    let (mut since, mut most) = (0, 0);
    // Two trips: what is loaded after the last wait of one is waited for in the next.
    for instruction in trip.iter().chain(trip) {
        if waits_for_vector_loads(instruction) {
            most = most.max(since);
            since = 0;
        } else if is_vector_load(instruction.name) {
            since += bytes_loaded(instruction.name)?;
        }
    }
    // A loop that never waits has loaded everything twice.
    Ok(if trip.iter().any(waits_for_vector_loads) { most } else { since / 2 })
}

fn waits_for_vector_loads(instruction: &Instruction<'_>) -> bool {
    let Instruction { name, operands } = instruction;
    name.starts_with("s_waitcnt") && (name.contains("vmcnt") || operands.contains("vmcnt"))
}

fn is_vector_load(name: &str) -> bool {
    ["buffer_load_", "global_load_", "flat_load_"].iter().any(|start| name.starts_with(start))
}

fn is_scalar_load(name: &str) -> bool {
    name.starts_with("s_load_") || name.starts_with("s_buffer_load_")
}

/// Bytes that a vector load brings a thread: `buffer_load_dwordx4` of RDNA2, `buffer_load_b128` of RDNA3.
fn bytes_loaded(name: &str) -> Result<u64, String> {
    let (_, what) = name.split_once("_load_").unwrap_or_default();
    what.split('_')
        .find_map(|word| match word {
            "ubyte" | "sbyte" | "u8" | "i8" => Some(1),
            "ushort" | "sshort" | "short" | "u16" | "i16" | "b16" => Some(2),
            "dword" | "b32" => Some(4),
            "dwordx2" | "b64" => Some(8),
            "dwordx3" | "b96" => Some(12),
            "dwordx4" | "b128" => Some(16),
            _ => None,
        })
        .ok_or_else(|| format!("'{name}' loads how many bytes? Add it to bytes_loaded in benches/amd/src/isa.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(isa: &str) -> HotLoop {
        hot_loop(isa).expect("known instructions")
    }

    #[test]
    fn loads_are_added_up_to_the_next_wait() {
        let isa = "
BB0:
	s_load_b128 s[8:11], s[2:3], null                           ; f4080201 f8000000
	buffer_load_b128 v[0:3], v10, s[12:15], 0 offen             ; e05c0000 80430c0a
BB2:
	s_cbranch_scc0 BB11                                         ; bfa1004a
BB10:
	s_clause 0x1                                                ; bf850001
	s_load_b128 s[12:15], s[2:3], 0x30                          ; f4080301 f8000030
	s_buffer_load_b32 s1, s[8:11], 0x8                          ; f4200044 f8000008
	s_waitcnt lgkmcnt(0)                                        ; bf89fc07
	buffer_load_b128 v[12:15], v10, s[12:15], 0 offen           ; e05c0000 80430c0a
	buffer_load_b64 v[18:19], v11, s[16:19], 0 offen            ; e0540000 8044120b
	buffer_load_u8 v20, v11, s[16:19], 0 offen                  ; e0400000 8044140b
	s_waitcnt vmcnt(1)                                          ; bf8907f7
	v_fma_mix_f32 v9, v18, v12, v9 op_sel_hi:[1,0,0]            ; cc200009 0c261912
	s_waitcnt vmcnt(0) lgkmcnt(0)                               ; bf890007
	s_branch BB2                                                ; bfa0ffb2
BB11:
	s_endpgm                                                    ; bfb00000
";
        assert_eq!(found(isa), HotLoop { bytes: 16 + 8 + 1, scalar_loads: 2 });
    }

    #[test]
    fn a_load_behind_the_last_wait_belongs_to_the_next_trip() {
        let isa = "
BB1:
	buffer_load_dword v1, v2, s[0:3], 0 offen
	s_waitcnt vmcnt(4)
	global_load_dwordx3 v[4:6], v[2:3], off
	buffer_load_dwordx4 v[8:11], v2, s[0:3], 0 offen
	s_cbranch_scc1 BB1
";
        assert_eq!(found(isa).bytes, 12 + 16 + 4);
    }

    #[test]
    fn only_waits_for_vector_loads_count() {
        let isa = "
BB1:
	buffer_load_dword v1, v2, s[0:3], 0 offen
	s_waitcnt lgkmcnt(0)
	s_waitcnt_vscnt null, 0x0
	buffer_load_dword v3, v2, s[0:3], 0 offen
	s_waitcnt_vmcnt null, 0x0
	s_branch BB1
";
        assert_eq!(found(isa).bytes, 8);
        assert_eq!(found(&isa.replace("s_waitcnt_vmcnt", "s_nop")).bytes, 8, "a loop that never waits");
    }

    #[test]
    fn the_hot_loop_has_no_loop_inside_and_the_most_loads() {
        let isa = "
BB1:
	buffer_load_b128 v[0:3], v1, s[0:3], 0 offen
	buffer_load_b128 v[4:7], v1, s[0:3], 0 offen
	buffer_load_b128 v[8:11], v1, s[0:3], 0 offen
BB2:
	buffer_load_b32 v1, v2, s[0:3], 0 offen
	s_cbranch_execz BB3
	s_cbranch_scc1 BB2
	s_load_b32 s1, s[2:3], null
	s_branch BB2
BB3:
	buffer_load_b32 v1, v2, s[0:3], 0 offen
	buffer_load_b32 v3, v2, s[0:3], 0 offen
	s_waitcnt vmcnt(0)
	s_cbranch_vccnz BB3
	s_branch BB1
";
        assert_eq!(found(isa), HotLoop { bytes: 8, scalar_loads: 0 });
        // The end of a loop is its last branch back.
        assert_eq!(found(&isa.replace("s_cbranch_vccnz BB3", "s_nop 0")), HotLoop { bytes: 4, scalar_loads: 1 });
    }

    #[test]
    fn a_loop_inside_that_loads_nothing_does_not_count() {
        let isa = "
BB1:
	s_mov_b32 s1, 0
BB2:
	s_add_u32 s1, s1, 1
	s_cbranch_scc1 BB2
	s_load_b128 s[0:3], s[2:3], 0x30
	buffer_load_b32 v1, v2, s[0:3], 0 offen
	buffer_load_b128 v[4:7], v2, s[0:3], 0 offen
	s_waitcnt vmcnt(0)
	s_branch BB1
";
        assert_eq!(found(isa), HotLoop { bytes: 20, scalar_loads: 1 });
    }

    #[test]
    fn without_a_loop_that_loads_all_is_zero() {
        assert_eq!(
            found("BB0:\n\tbuffer_load_b32 v1, v2, s[0:3], 0 offen\n\ts_branch BB1\nBB1:\n\ts_endpgm"),
            HotLoop::default()
        );
        assert_eq!(found("BB0:\n\tds_load_b128 v[0:3], v4\n\ts_branch BB0"), HotLoop::default());
    }

    #[test]
    fn a_load_of_unknown_size_is_refused() {
        let error = hot_loop("BB0:\n\tbuffer_load_format_xyz v[0:2], v3, s[0:3], 0 idxen\n\ts_branch BB0")
            .expect_err("unknown");
        assert!(error.contains("'buffer_load_format_xyz'"), "{error}");
    }
}
