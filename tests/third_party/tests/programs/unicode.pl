print "žluťoučký 雪 🎉\n";
