//! The GPUs that programs may use.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::stage::ProgramGpus;

/// The variable that tells CUDA which GPUs a process may use.
const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
/// Has a folder for each GPU, if NVIDIA's driver is loaded.
const DRIVER: &str = "/proc/driver/nvidia/gpus";

/// How long NVIDIA's tool may take. It hangs if the driver does.
const DEADLINE: Duration = Duration::from_secs(10);

/// The GPUs that programs without states may use.
pub(super) fn of_any_model() -> ProgramGpus {
    ProgramGpus { ids: visible(), ..ProgramGpus::default() }
}

/// The GPUs that trainings may use, and their model. A chain of states stays on one model. So if there are several,
/// these are the GPUs of the first one's model: which GPU a training gets must not change its result.
pub(super) fn of_one_model() -> ProgramGpus {
    let ids = visible();
    if ids.is_empty() {
        return ProgramGpus::default();
    }
    let list = list_gpus().unwrap_or_default();
    let models: Vec<Option<String>> = ids.iter().map(|id| model(&list, id)).collect();
    let first = models[0].clone();
    let (same, others): (Vec<_>, Vec<_>) = ids.into_iter().zip(models).partition(|(_, model)| *model == first);
    let names = |gpus: &[(String, Option<String>)]| gpus.iter().map(|gpu| gpu.0.clone()).collect::<Vec<_>>();
    let warning = match &first {
        None => Some(
            "the models of the GPUs are unknown, as `nvidia-smi -L` doesn't tell them: make sure that all are the same, \
             because trainings continue on any of them"
                .to_owned(),
        ),
        Some(model) if !others.is_empty() => Some(format!(
            "trainings use only the GPUs {} ({model}), because others round differently: to use another model, name its \
             GPUs in {VARIABLE}",
            names(&same).join(", ")
        )),
        Some(_) => None,
    };
    ProgramGpus { ids: names(&same), model: first, warning }
}

/// The GPUs that this process may use, named as in `CUDA_VISIBLE_DEVICES`: those that the variable names, or else all
/// GPUs of this machine.
fn visible() -> Vec<String> {
    match std::env::var_os(VARIABLE) {
        Some(value) => named(&value.to_string_lossy()),
        None => (0..installed(Path::new(DRIVER), Path::new("/dev"))).map(|gpu| gpu.to_string()).collect(),
    }
}

/// What `nvidia-smi -L` prints. `None` if it is not installed, fails, or does not end.
fn list_gpus() -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    command.arg("-L").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .spawn(move || {
            let mut list = Vec::new();
            sender.send(stdout.read_to_end(&mut list).map(|_| list))
        })
        .ok()?;
    let list = receiver.recv_timeout(DEADLINE).ok().and_then(Result::ok);
    if list.is_none() {
        // In the driver, it can't be killed. Then it is not waited for.
        let _ = child.kill();
        return None;
    }
    let status = child.wait().ok()?;
    list.filter(|_| status.success()).map(|list| String::from_utf8_lossy(&list).into_owned())
}

/// The model of a GPU in the output of `nvidia-smi -L`. `name` is its number, or the start of its UUID. A part of a GPU
/// (MIG) is listed below it.
fn model(list: &str, name: &str) -> Option<String> {
    let mut of_gpu = "";
    for line in list.lines() {
        let (front, uuid) = line.split_once("(UUID:").unwrap_or((line, ""));
        let is_named = uuid.trim().starts_with(name);
        if let Some((number, model)) = front.strip_prefix("GPU ").and_then(|gpu| gpu.split_once(':')) {
            of_gpu = model.trim();
            if number == name || is_named {
                return Some(of_gpu.to_owned());
            }
        } else if let Some((part, _)) = front.trim().split_once(" Device").filter(|_| is_named) {
            return Some(format!("{of_gpu} {}", part.trim()));
        }
    }
    None
}

/// The GPUs in a value of the variable. As in CUDA, the first that can't exist ends the list.
fn named(value: &str) -> Vec<String> {
    let mut gpus: Vec<String> = Vec::new();
    for gpu in value.split(',').map(str::trim) {
        if gpu.is_empty() || gpu.starts_with('-') || gpu == "NoDevFiles" {
            break;
        }
        if !gpus.iter().any(|known| known == gpu) {
            gpus.push(gpu.to_owned());
        }
    }
    gpus
}

/// The number of NVIDIA GPUs: according to the driver, or else to the device files in `dev`.
fn installed(driver: &Path, dev: &Path) -> usize {
    let count = |folder: &Path, is_gpu: fn(&str) -> bool| {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
    };
    let is_device = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    match count(driver, |_| true) {
        0 => count(dev, is_device),
        gpus => gpus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_numbers_or_uuids_up_to_the_first_that_cannot_exist() {
        assert_eq!(named("0,2"), ["0", "2"]);
        assert_eq!(named(" GPU-8a2f , MIG-41b7,0"), ["GPU-8a2f", "MIG-41b7", "0"]);
        assert_eq!(named("1,-1,0"), ["1"]);
        assert_eq!(named("1,1,0"), ["1", "0"]);
        assert_eq!(named(""), [""; 0]);
        assert_eq!(named("NoDevFiles"), [""; 0]);
    }

    #[test]
    fn models_are_found_by_number_uuid_and_part() {
        let list = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5d5ba0d6-d33d)\n\
                    GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-8a2f2c3e-77aa)\n  \
                    MIG 1g.5gb      Device  0: (UUID: MIG-c7384736-a75d)\n  \
                    MIG 2g.10gb     Device  1: (UUID: MIG-a28ad590-3fda)\n\
                    GPU 10: Tesla T4 (UUID: GPU-11111111-0000)\n";
        let model = |name| model(list, name).unwrap_or_default();
        assert_eq!(model("0"), "NVIDIA H100 80GB HBM3");
        assert_eq!(model("1"), "NVIDIA A100-SXM4-40GB");
        assert_eq!(model("10"), "Tesla T4");
        assert_eq!(model("GPU-8a2f"), "NVIDIA A100-SXM4-40GB");
        assert_eq!(model("MIG-a28ad590-3fda"), "NVIDIA A100-SXM4-40GB MIG 2g.10gb");
        assert_eq!(model("2"), "");
        assert_eq!(super::model("No devices were found", "0"), None);
    }

    #[test]
    fn gpus_of_the_machine_are_counted_by_the_driver_or_the_device_files() {
        let (driver, dev) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let count = || installed(driver.path(), dev.path());
        assert_eq!(count(), 0);
        for name in ["nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(dev.path().join(name), "").unwrap();
        }
        assert_eq!(count(), 3);
        std::fs::create_dir(driver.path().join("0000:01:00.0")).unwrap();
        assert_eq!(count(), 1);
        assert_eq!(installed(Path::new("/nowhere"), Path::new("/nowhere")), 0);
    }
}
