# What this image offers, used once: prints `ok`.
set -euo pipefail
[ "$(echo '{"a": [1, 2]}' | jq '.a[1]')" = 2 ]
[ "$(echo '2^100' | bc)" = 1267650600228229401496703205376 ]
printf 'a,b\n1,2\n3,4\n' >table.csv
[ "$(mlr --icsv --onidx stats1 -a sum -f b table.csv)" = 6 ]
[ "$(datamash -t, --header-in sum 2 <table.csv)" = 6 ]
[ "$(sqlite3 :memory: 'select 1 + 1')" = 2 ]
[ "$(awk 'BEGIN { print toupper("a") }')" = A ]
[ "$(python3 -c 'print(1 + 1)')" = 2 ]
zip -q table.zip table.csv && unzip -p table.zip | cmp - table.csv
tar --zstd -cf table.tar.zst table.csv && file table.tar.zst | grep -q Zstandard
git init -q repository && rg -q 3,4 table.csv && tree -i | grep -q table.csv
echo ok
