# Sourced by the scripts: finds what `results` and `workdir` are where the flags that they pass on name them.
read_flags() {
  for flag in "$@"; do
    case $flag in
      --results=* | -results=*) results=${flag#*=} ;;
      --workdir=* | -workdir=*) workdir=${flag#*=} ;;
      -*) ;;
      *) echo "error: write flags as --name=value, not $flag" >&2 && exit 1 ;; # the studies would take --results X
    esac
  done
}
