import java.io.File;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Map;
import java.util.Random;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.io.BytesWritable;
import org.apache.hadoop.io.SequenceFile;
import org.apache.hadoop.io.Text;

/** Hadoop's own SequenceFile, for comparison: `read file [start]` prints what it finds, `write file count` makes a file. */
public class SequenceFiles {
    public static void main(String[] arguments) throws Exception {
        var configuration = new Configuration(false);
        var path = new Path(new File(arguments[1]).toURI());
        if (arguments[0].equals("read")) {
            read(configuration, path, arguments.length > 2 ? Long.parseLong(arguments[2]) : 0);
        } else {
            write(configuration, path, Integer.parseInt(arguments[2]));
        }
    }

    private static void read(Configuration configuration, Path path, long start) throws Exception {
        try (var reader = new SequenceFile.Reader(configuration, SequenceFile.Reader.file(path))) {
            for (Map.Entry<Text, Text> entry : reader.getMetadata().getMetadata().entrySet()) {
                System.out.println("# " + entry.getKey() + "=" + entry.getValue());
            }
            if (start > 0) {
                reader.sync(start);
            }
            var key = new Text();
            var value = new BytesWritable();
            while (reader.next(key, value)) {
                print(key.toString(), value.copyBytes());
            }
        }
    }

    private static void write(Configuration configuration, Path path, int count) throws Exception {
        var metadata = new SequenceFile.Metadata();
        metadata.set(new Text("study.uid"), new Text("1.2.3"));
        metadata.set(new Text("note"), new Text("影像"));
        try (var writer = SequenceFile.createWriter(
                configuration, SequenceFile.Writer.file(path), SequenceFile.Writer.keyClass(Text.class),
                SequenceFile.Writer.valueClass(BytesWritable.class), SequenceFile.Writer.metadata(metadata),
                SequenceFile.Writer.compression(SequenceFile.CompressionType.NONE),
                SequenceFile.Writer.syncInterval(4096))) {
            var random = new Random(1);
            for (int number = 0; number < count; number++) {
                var value = new byte[random.nextInt(20000)];
                random.nextBytes(value);
                var key = "1.2.3." + number + (number % 5 == 0 ? " 键" : "");
                writer.append(new Text(key), new BytesWritable(value));
                print(key, value);
            }
        }
    }

    private static void print(String key, byte[] value) throws Exception {
        var digest = MessageDigest.getInstance("SHA-256").digest(value);
        var line = String.join("\t", key, Integer.toString(value.length), HexFormat.of().formatHex(digest)) + "\n";
        System.out.write(line.getBytes(StandardCharsets.UTF_8));
        System.out.flush();
    }
}
