<?php
copy("in.txt", "out.txt");
