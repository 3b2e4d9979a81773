"""The files that ``rsr defend`` reads and writes."""

import shutil
import subprocess

from defend_files import text_of

from rsr_basicsr.cli import main
from rsr_basicsr.defend_file.options_file import defend_text


def test_only_shown_without_an_output(tmp_path, capsys):
    file = tmp_path / 'in.yml'
    for text in (text_of('ESRGAN'), text_of('ESRGAN').rstrip(), text_of('ESRGAN').replace('\n', '\r\n')):
        file.write_bytes(text.encode())
        assert main(['defend', str(file)]) == 0
        assert file.read_bytes() == text.encode() and list(tmp_path.iterdir()) == [file]
        shown = capsys.readouterr().out
        removed = [line for line in shown.splitlines() if line.startswith('-') and not line.startswith('---')]
        assert [line.split(':')[0].strip('- ') for line in removed] == ['name', 'model_type', 'type']
        if shutil.which('patch'):
            made = subprocess.run(
                ['patch', '--binary', '-s', '-o', '-', str(file)], input=shown.encode(), capture_output=True, check=True
            ).stdout
            assert made.decode() == defend_text(text, 'light').text


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    before, after = tmp_path / 'in.yml', tmp_path / 'out.yml'
    before.write_text(text_of('ESRGAN'))
    after.write_text('mine')
    for output in (after, before):
        assert main(['defend', str(before), '-o', str(output)]) == 2
        assert f'-o {output}: it is there already; give --overwrite to replace it' in capsys.readouterr().err
    assert after.read_text() == 'mine' and before.read_text() == text_of('ESRGAN')
    assert main(['defend', str(before), '-o', str(after), '--overwrite', '--preset', 'strong']) == 0
    assert after.read_text() == defend_text(text_of('ESRGAN'), 'strong').text
    assert 'next: rsr check' in capsys.readouterr().err
    assert main(['defend', str(before), '-o', str(before), '--overwrite']) == 0
    assert before.read_text() == defend_text(text_of('ESRGAN'), 'light').text
    assert sorted(tmp_path.iterdir()) == [before, after]


def test_files_that_cannot_be_read_or_written(tmp_path, capsys):
    file = tmp_path / 'in.yml'
    file.write_bytes(text_of('ESRGAN').encode('utf-16'))
    (tmp_path / 'good.yml').write_text(text_of('ESRGAN'))
    good = str(tmp_path / 'good.yml')
    for arguments, sentence in [
        ([str(file)], 'it is not in UTF-8'),
        ([str(tmp_path / 'x')], 'No such file'),
        ([str(tmp_path)], 'Is a directory'),
        ([good, '--overwrite'], 'give -o OUT.yml'),
        ([good, '-o', str(tmp_path), '--overwrite'], 'Is a directory'),
        ([good, '-o', str(tmp_path / 'x' / 'y.yml')], 'No such file or directory'),
    ]:
        assert main(['defend', *arguments]) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count('\n') == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['good.yml', 'in.yml']
