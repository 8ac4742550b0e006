// AWS SDK for Java v2: odd names, multipart by hand, downloads by part number, conditional creation, delete many.
import java.net.URI;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import software.amazon.awssdk.core.SdkSystemSetting;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.core.util.VersionInfo;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.model.*;

public class Client {
    static void check(boolean condition, String what) {
        if (!condition) {
            System.err.println("not so: " + what);
            System.exit(1);
        }
    }

    public static void main(String[] arguments) {
        String bucket = System.getenv("SOS_BUCKET");
        S3Client s3 = S3Client.builder()
                .endpointOverride(URI.create(System.getenv("SOS_ENDPOINT")))
                .region(Region.US_EAST_1)
                .forcePathStyle(true)
                .build();
        s3.createBucket(b -> b.bucket(bucket));
        List<String> names = List.of("a b", "a+b", "!'()*", "ключ", "😀", "%2F", "?q=1&r", "#h", " lead", "trail ");
        for (String name : names) {
            s3.putObject(b -> b.bucket(bucket).key("odd/" + name), RequestBody.fromString(name));
        }
        List<ObjectIdentifier> found = new ArrayList<>();
        s3.listObjectsV2Paginator(b -> b.bucket(bucket).maxKeys(3)).contents()
                .forEach(one -> found.add(ObjectIdentifier.builder().key(one.key()).build()));
        check(found.size() == names.size(), "the listing has every odd name");
        for (String name : names) {
            check(s3.getObjectAsBytes(b -> b.bucket(bucket).key("odd/" + name)).asUtf8String().equals(name), name);
        }
        byte[] part = new byte[5 << 20];
        Arrays.fill(part, (byte) 7);
        String upload = s3.createMultipartUpload(b -> b.bucket(bucket).key("big")).uploadId();
        List<CompletedPart> parts = new ArrayList<>();
        for (int number = 1; number <= 3; number++) {
            int n = number;
            String etag = s3.uploadPart(b -> b.bucket(bucket).key("big").uploadId(upload).partNumber(n),
                    RequestBody.fromBytes(part)).eTag();
            parts.add(CompletedPart.builder().partNumber(n).eTag(etag).build());
        }
        s3.completeMultipartUpload(b -> b.bucket(bucket).key("big").uploadId(upload).multipartUpload(m -> m.parts(parts)));
        var second = s3.getObjectAsBytes(b -> b.bucket(bucket).key("big").partNumber(2));
        check(second.response().partsCount() == 3, "x-amz-mp-parts-count");
        check(Arrays.equals(second.asByteArray(), part), "a part by its number");
        check(s3.headObject(b -> b.bucket(bucket).key("big")).contentLength() == 3L * part.length, "15 MiB in parts");
        s3.putObject(b -> b.bucket(bucket).key("lock").ifNoneMatch("*"), RequestBody.fromString("1"));
        try {
            s3.putObject(b -> b.bucket(bucket).key("lock").ifNoneMatch("*"), RequestBody.fromString("2"));
            check(false, "the second conditional creation is refused");
        } catch (S3Exception error) {
            check(error.statusCode() == 412, "412");
        }
        found.add(ObjectIdentifier.builder().key("big").build());
        found.add(ObjectIdentifier.builder().key("lock").build());
        var gone = s3.deleteObjects(b -> b.bucket(bucket).delete(d -> d.objects(found)));
        check(gone.deleted().size() == found.size() && gone.errors().isEmpty(), "deletes of many");
        s3.deleteBucket(b -> b.bucket(bucket));
        System.out.println(VersionInfo.SDK_VERSION);
    }
}
