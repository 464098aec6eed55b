<?php
// What this image offers, used once: prints `ok`.
require 'Carbon/autoload.php';
require 'League/Csv/autoload.php';
require 'Symfony/Component/Yaml/autoload.php';
require 'Twig/autoload.php';

function must(bool $right): void
{
    if (!$right) {
        throw new Exception('wrong');
    }
}

must(Carbon\Carbon::parse('2026-02-28')->addDay()->toDateString() === '2026-03-01');
must(count(League\Csv\Reader::createFromString("a,b\n1,2\n")->setHeaderOffset(0)) === 1);
must(Symfony\Component\Yaml\Yaml::parse('a: [1, 2]')['a'][1] === 2);
must((new Twig\Environment(new Twig\Loader\ArrayLoader(['a' => '{{ b }}'])))->render('a', ['b' => 1]) === '1');
must(bcadd('0.1', '0.2', 1) === '0.3' && gmp_strval(gmp_pow(2, 100)) === '1267650600228229401496703205376');
must(mb_strtoupper('é') === 'É' && (new PDO('sqlite::memory:'))->query('select 1')->fetchColumn() === 1);
imagepng(imagecreatetruecolor(10, 10), 'square.png');
must(getimagesize('square.png')[0] === 10 && class_exists('ZipArchive') && class_exists('DOMDocument') && class_exists('NumberFormatter'));
echo "ok\n";
