<?php
echo "žluťoučký 雪 🎉\n";
