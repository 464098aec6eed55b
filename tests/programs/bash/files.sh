cp in.txt out.txt
