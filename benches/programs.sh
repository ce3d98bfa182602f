#!/bin/sh
# Measures `train-command`: the time beside the same processes run by hand, and the memory for large states and inputs.
#
#   benches/programs.sh path/to/vadpipe [FOLDER [GIGABYTES]]
#
# Needs python3. FOLDER (default: a temporary one) needs about four times GIGABYTES (default 4) of free space.
set -eu
vadpipe=$(realpath "$1")
folder=${2:-$(mktemp -d)}
gigabytes=${3:-4}
mkdir -p "$folder"
cd "$folder"

# A program that writes its inputs' size and a state of $MEGABYTES.
cat > train.py << 'PY'
import json, os, sys
start, end = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
values = json.load(open(os.environ["VADPIPE_VALUES"]))
megabytes = values["start"]["megabytes"]
for epoch in range(start, end):
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        log.write(json.dumps({"epoch": epoch + 1, "loss": 1 / (epoch + 1)}) + "\n")
out = os.environ["VADPIPE_STATE_OUT"]
with open(out + "/state.bin", "wb") as file:
    for number in range(megabytes):
        file.write((end * 1000003 + number).to_bytes(8, "little") * (1 << 17))
with open(out + "/small.json", "w") as file:
    json.dump({"epoch": end}, file)
PY

pipeline() { # name, megabytes of the state, segments
    cat > "$1.toml" << TOML
[pipeline]
name = "$1"
[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
segment_epochs = 1
epochs = $3
[stages.net.start]
megabytes = $2
TOML
}

segments=40
pipeline overhead 0 $segments
rm -rf cache hand
begin=$(date +%s.%N)
"$vadpipe" run overhead.toml -q
middle=$(date +%s.%N)
mkdir -p hand/state-out
echo '{"start": {"megabytes": 0}}' > hand/values.json
epoch=0
while [ $epoch -lt $segments ]; do
    rm -rf hand/state-in && mv hand/state-out hand/state-in && mkdir hand/state-out
    VADPIPE_FROM=$epoch VADPIPE_TO=$((epoch + 1)) VADPIPE_VALUES=hand/values.json VADPIPE_LOG=hand/log \
        VADPIPE_STATE_IN=hand/state-in VADPIPE_STATE_OUT=hand/state-out python3 train.py
    epoch=$((epoch + 1))
done
end=$(date +%s.%N)
echo "$begin $middle $end $segments" | awk '{
    printf "%d segments: %.2f s with vadpipe, %.2f s by hand, %.3f s more a segment\n", $4, $2-$1, $3-$2, ($2-$1-$3+$2)/$4 }'

# Peak memory: a state of some gigabytes, and a stage that reads it.
pipeline large $((gigabytes * 1024)) 2
cat >> large.toml << 'TOML'
[stages.reader]
kind = "command"
inputs = { net = "net" }
argv = ["sh", "-c", "wc -c {inputs.net}/state/state.bin > size.txt"]
outputs = { size = "size.txt" }
TOML
python3 - "$vadpipe" << 'PY'
import resource, subprocess, sys, time
start = time.time()
# The peak of the largest process below this one. The programs themselves hold a megabyte at a time.
subprocess.run([sys.argv[1], "run", "large.toml", "-q"], check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"large state, twice, and a reader: {time.time() - start:.1f} s, peak {peak / 1024:.0f} MB")
PY
