//! `gpus = 1`: GPUs that a program gets for itself.
//!
//! The runner takes them from those that vadpipe may use itself, and no two stages have the same GPU at a time. The
//! program sees only its own: CUDA counts the GPUs in `CUDA_VISIBLE_DEVICES` from 0, so the first is `cuda:0` for it.
//! `gpus` is not in the key. The states of a training have the model and the number of its GPUs as their numerics
//! class, so a training on an A100 does not continue on an H100.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::stage::{Context, Device, Params};

/// The variable that tells CUDA which GPUs a process may use.
const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
/// Tells CUDA to number GPUs as `nvidia-smi` does. Otherwise the fastest comes first.
const ORDER: (&str, &str) = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
/// The most GPUs of a program.
const MOST: i64 = 1024;

/// Reads the parameter. `lists` are the variables of the environment that the program gets, by the parameter that lists
/// them.
pub(super) fn read(params: &mut Params<'_>, lists: [(&'static str, &[String]); 2]) -> usize {
    params.describe("how many GPUs the program gets for itself, in CUDA_VISIBLE_DEVICES");
    let gpus = params.int_unhashed("gpus", 0, 0..=MOST);
    for (list, names) in lists {
        if let Some(name) = names.iter().find(|name| gpus > 0 && [VARIABLE, ORDER.0].contains(&name.as_str())) {
            let message = format!("`gpus` sets the variable `{name}`, so `{list}` can't hand it through");
            params.error(list, message, format!("remove it from `{list}`, or remove `gpus`"));
        }
    }
    usize::try_from(gpus).unwrap_or_default()
}

/// Tells the program which GPUs it has.
pub(super) fn set_variable(context: &Context<'_>, environment: &mut BTreeMap<String, OsString>) {
    if !context.gpus.is_empty() {
        environment.insert(VARIABLE.to_owned(), context.gpus.join(",").into());
        environment.insert(ORDER.0.to_owned(), ORDER.1.into());
    }
}

/// The device as the program should name it: the first of its GPUs, or the pipeline's device if it has none of its own.
pub(super) fn device<'a>(context: &Context<'a>) -> &'a Device {
    if context.gpus.is_empty() { context.device } else { &Device::Cuda { ordinal: 0, graph: false } }
}
