import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FsShell;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.hdfs.HdfsConfiguration;
import org.apache.hadoop.hdfs.tools.DFSAdmin;
import org.apache.hadoop.hdfs.tools.DFSHAAdmin;
import org.apache.hadoop.hdfs.tools.DFSck;
import org.apache.hadoop.hdfs.tools.ECAdmin;
import org.apache.hadoop.io.BytesWritable;
import org.apache.hadoop.io.SequenceFile;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.util.Tool;
import org.apache.hadoop.util.ToolRunner;

/**
 * Hadoop's own tools in one process that stays: its start of two seconds is paid once, and a comparison with it is fair.
 *
 * A line on stdin is a command with its arguments, tabs between. The answer is `ok`, seconds and a count of lines, then
 * those lines; or `error` in place of `ok`. The command is a tool's name, or one of
 * `read PATH` (how many bytes came), `digest PATH` (their SHA-256), `records PATH` (key, length and SHA-256 of each record).
 */
public class Warm {
    private final Configuration configuration = new HdfsConfiguration();
    private final FsShell shell = new FsShell(configuration);
    private final PrintStream answers = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws Exception {
        var warm = new Warm();
        var commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            warm.answer(line.split("\t"));
        }
    }

    private void answer(String[] command) {
        var printed = new ByteArrayOutputStream();
        var out = new PrintStream(printed, true, StandardCharsets.UTF_8);
        System.setOut(out);
        System.setErr(out);
        var state = "ok";
        var start = System.nanoTime();
        try {
            run(command, out);
        } catch (Exception failure) {
            state = "error";
            out.println(failure);
        }
        var seconds = (System.nanoTime() - start) / 1e9;
        out.flush();
        var lines = printed.toString(StandardCharsets.UTF_8).lines().toList();
        answers.println(state + "\t" + seconds + "\t" + lines.size());
        lines.forEach(answers::println);
        answers.flush();
    }

    private void run(String[] command, PrintStream out) throws Exception {
        switch (command[0]) {
            case "read" -> out.println(read(new Path(command[1]), null));
            case "digest" -> {
                var digest = MessageDigest.getInstance("SHA-256");
                read(new Path(command[1]), digest);
                out.println(HexFormat.of().formatHex(digest.digest()));
            }
            case "records" -> records(new Path(command[1]), out);
            default -> {
                var code = ToolRunner.run(tool(command[0]), Arrays.copyOfRange(command, 1, command.length));
                if (code != 0) {
                    throw new Exception(command[0] + " ended with " + code);
                }
            }
        }
    }

    /** Only the shell serves twice: the others remember what they saw. */
    private Tool tool(String name) throws IOException {
        return switch (name) {
            case "dfs" -> shell;
            case "dfsadmin" -> new DFSAdmin(new HdfsConfiguration());
            case "haadmin" -> configured(new DFSHAAdmin());
            case "fsck" -> new DFSck(new HdfsConfiguration(), System.out);
            case "ec" -> new ECAdmin(new HdfsConfiguration());
            default -> throw new IllegalArgumentException(name + " is no command");
        };
    }

    private static Tool configured(Tool tool) {
        tool.setConf(new HdfsConfiguration());
        return tool;
    }

    private long read(Path path, MessageDigest digest) throws Exception {
        var buffer = new byte[128 * 1024];
        long total = 0;
        try (var stream = path.getFileSystem(configuration).open(path)) {
            for (int count = stream.read(buffer); count >= 0; count = stream.read(buffer)) {
                total += count;
                if (digest != null) {
                    digest.update(buffer, 0, count);
                }
            }
        }
        return total;
    }

    private void records(Path path, PrintStream out) throws Exception {
        try (var reader = new SequenceFile.Reader(configuration, SequenceFile.Reader.file(path))) {
            var key = new Text();
            var value = new BytesWritable();
            var digest = MessageDigest.getInstance("SHA-256");
            while (reader.next(key, value)) {
                digest.update(value.getBytes(), 0, value.getLength());
                out.println(key + "\t" + value.getLength() + "\t" + HexFormat.of().formatHex(digest.digest()));
            }
        }
    }
}
