#!/bin/sh
# rabin2 -I FILE: facts about a binary as `key value` lines, found with binutils.
set -e
test "$1" = -I
readelf -h "$2" | while read -r key rest; do
    case $key in
        Class:) echo "class $rest" ;;
        Machine:) echo "machine ${rest##* }" ;;
        Type:) echo "type ${rest%% *}" ;;
    esac
done
set -- $(size "$2" | tail -n 1)
echo "text.size $1"
echo "this line has more than two words"
