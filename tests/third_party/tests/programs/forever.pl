$| = 1; print "started\n"; sleep while 1;
